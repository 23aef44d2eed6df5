# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Tools that people really try: their schemas and the ways to ask for them, in both languages.

One block a tool. N: names (snake case first) ~ Chinese names. D: descriptions. P: a required parameter, O: an
optional one: keys, kind of value, descriptions (an optional one also says how a request mentions it). E and Z:
requests in English and Chinese, where {0} is the first parameter; a line that ends in a question mark is a
question, any other an instruction. F: the fields of an observation with their kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TABLE = """
N get_weather weather_query get_current_weather fetch_weather weather query_weather ~ 查询天气 天气查询
D Get the current weather of a city / Get the current weather for `city_name` / Query the weather forecast / Weather information for a location ~ 查询城市的天气 / 获取指定城市的当前天气 / 查询天气预报
P city,city_name,location,place city | The name of the city to be queried / City name / the city / Name of the place ~ 要查询的城市名称 / 城市 / 城市名
O days,num_days small | Number of days of the forecast / how many days ~ 预报的天数 / 天数 | for the next {} days / for {} days ~ 未来{}天 / 要{}天的
E what's the weather in {0}? / What's the weather like in {0} today? / how is the weather in {0}? / weather in {0} / will it rain in {0} tomorrow? / check the weather of {0} / is it cold in {0}? / how hot is it in {0} right now? / tell me the weather forecast of {0} / what is the temperature in {0}? / look up today's weather for {0} / do I need an umbrella in {0}? / {0} weather / is it sunny in {0}?
Z {0}今天的天气怎么样？ / {0}天气如何？ / 查询{0}的天气 / {0}今天天气怎么样？ / {0}明天会下雨吗？ / {0}现在多少度？ / 看看{0}的天气 / {0}冷不冷？ / 告诉我{0}的天气预报 / {0}的气温是多少？ / {0}今天需要带伞吗？ / 我要去{0}，天气好吗？ / {0}天气 / {0}今天热吗？
F temperature:int condition:cond humidity:int wind:small

N track get_stock_price stock_price query_stock stock_quote ~ 追踪股票 查询股价
D Track the real-time price of a stock / Get the current price of a stock / Stock quotes ~ 追踪指定股票的实时价格 / 查询股票价格 / 获取股票的最新报价
P symbol,stock,ticker,stock_code symbol | The stock code to track / ticker symbol / The symbol of the stock ~ 需要追踪的股票代码 / 股票代码
E what is the price of stock {0}? / how much is {0} stock now? / track the stock {0} / check the share price of {0} / what's {0} trading at? / get me a quote for {0} / how is the stock {0} doing today? / price of stock {0}
Z 帮我查询股票{0}的价格 / {0}的股价是多少？ / 查一下股票{0} / 股票{0}现在多少钱？ / 看看{0}的最新股价 / {0}今天涨了吗？ / 追踪股票{0} / 股票代码{0}的价格是多少？
F price:float change:float

N convert_currency exchange_rate currency_converter currency_exchange ~ 货币换算 汇率转换
D Convert an amount of money from one currency to another / Currency conversion / Exchange money between currencies ~ 把一种货币的金额换算成另一种货币 / 货币兑换 / 汇率换算
P amount,value,money float | The amount of money / Amount to convert ~ 要换算的金额 / 金额
P from_currency,source,from,base currency | The currency to convert from / source currency ~ 原来的货币 / 源货币
P to_currency,target,to,quote currency | The currency to convert to / target currency ~ 目标货币 / 换成的货币
E convert {0} {1} to {2} / how much is {0} {1} in {2}? / exchange {0} {1} into {2} / what is {0} {1} in {2}? / change {0} {1} to {2} / {0} {1} to {2} / I have {0} {1}, how many {2} is that?
Z 把{0}{1}换成{2} / {0}{1}等于多少{2}？ / {0}{1}能换多少{2}？ / 将{0}{1}兑换成{2} / {0}{1}是多少{2}？ / 把{0}{1}换算为{2} / 我有{0}{1}，可以换多少{2}？
F result:float rate:float

N calculator calculate compute math_eval ~ 计算器 计算
D Evaluate a mathematical expression / A calculator / Compute an arithmetic expression ~ 计算数学表达式 / 计算器 / 计算算式的值
P expression,expr,formula,calculation expr | The expression to evaluate / mathematical expression ~ 要计算的表达式 / 数学表达式
E what is {0}? / calculate {0} / compute {0} / how much is {0}? / evaluate {0} / {0} = ? / work out {0}
Z {0}等于多少？ / 计算{0} / 算一下{0} / {0}是多少？ / 帮忙算算{0} / {0}=？ / 求{0}的值
F result:int

N translate translate_text translator text_translation ~ 翻译 文本翻译
D Translate text into another language / Translator / Translate a sentence ~ 把文本翻译成另一种语言 / 翻译文本 / 翻译工具
P text,sentence,content,source_text sentence | The text to translate / text ~ 要翻译的文本 / 原文
P target_language,to,language,target_lang language | The language to translate into / target language ~ 目标语言 / 翻译成的语言
E translate "{0}" into {1} / how do you say "{0}" in {1}? / what is "{0}" in {1}? / translate '{0}' to {1} / put "{0}" into {1} / say "{0}" in {1} / I need "{0}" in {1}
Z 把“{0}”翻译成{1} / “{0}”用{1}怎么说？ / 将“{0}”译成{1} / 翻译“{0}”为{1} / “{0}”的{1}是什么？ / 请用{1}说“{0}” / 把「{0}」翻成{1}
F translation:word

N send_email email_sender mail send_mail ~ 发送邮件 发邮件
D Send an email to someone / Send an e-mail ~ 给某人发送电子邮件 / 发送邮件
P recipient,to,address,receiver email | The address of the recipient / email address ~ 收件人的邮箱 / 收件人地址
P content,body,message,text sentence | The content of the email / Body of the mail ~ 邮件内容 / 正文
E send an email to {0} saying "{1}" / email {0}: {1} / write to {0} that {1} / send {0} an email: {1} / mail "{1}" to {0} / send the message "{1}" to {0} / drop {0} a mail with "{1}"
Z 给{0}发邮件，内容是“{1}” / 发送邮件到{0}：{1} / 给{0}发一封邮件，说{1} / 发邮件给{0}，告诉他{1} / 写邮件给{0}，内容为{1} / 把“{1}”发到{0} / 向{0}发送邮件“{1}”
F status:ok

N random_number_generator random_number generate_random randint ~ 随机数
D Generates a random number x, s.t. range[0] <= x < range[1] / Generate a random number between two numbers / Random integer ~ 生成一个随机数 / 在两个数之间生成随机整数
P low,min,minimum,start small | The lower bound / smallest value ~ 下限 / 最小值
P high,max,maximum,end int | The upper bound / largest value ~ 上限 / 最大值
E give me a random number between {0} and {1} / generate a random number from {0} to {1} / pick a number between {0} and {1} / roll a number from {0} to {1} / random number {0} to {1} / choose any integer between {0} and {1} / draw a number between {0} and {1}
Z 生成一个{0}到{1}之间的随机数 / 给我一个{0}到{1}的随机数 / 在{0}和{1}之间随机选一个数 / 随机产生{0}到{1}之间的数字 / 从{0}到{1}里随便挑一个数 / 来个{0}到{1}的随机数 / 抽一个{0}至{1}的数
F number:int

N create_event add_calendar_event calendar_add schedule_event new_event ~ 创建日程 添加日程
D Add an event to the calendar / Create a calendar event / Schedule an event ~ 在日历中添加日程 / 创建日历事件
P title,name,event,event_name phrase | The title of the event / name of the event ~ 日程标题 / 事件名称
P date,day,when date | The date of the event / day ~ 日期 / 哪一天
O time,start_time,at time | The time of the event / start time ~ 时间 / 开始时间 | at {} / , time {} ~ 时间是{} / {}开始
E add an event "{0}" on {1} / put {0} in my calendar for {1} / schedule {0} on {1} / create an event called {0} on {1} / add {0} to the calendar on {1} / note down {0} for {1} / plan {0} for {1}
Z 在{1}添加日程“{0}” / 把{0}加到{1}的日历 / {1}安排{0} / 创建{1}的日程：{0} / 日历里加上{1}的{0} / {1}有{0}，记到日历里 / 新建一个{1}的事件，叫{0}
F status:ok event_id:code

N set_alarm alarm_clock create_alarm add_alarm ~ 设置闹钟 设闹钟
D Set an alarm clock / Set an alarm for a given time ~ 设置闹钟 / 设定一个闹钟
P time,at,alarm_time,clock time | The time of the alarm / when it rings ~ 闹钟时间 / 响铃时间
E set an alarm for {0} / wake me up at {0} / alarm at {0} / I need to get up at {0} / set my alarm clock to {0} / ring at {0} / make an alarm for {0}
Z 设一个{0}的闹钟 / {0}叫我起床 / 定个{0}的闹钟 / 设置闹钟{0} / 帮我定{0}的闹铃 / 把闹钟设到{0} / 明天{0}叫醒我
F status:ok

N set_timer start_timer timer countdown ~ 设置计时器 倒计时
D Start a countdown timer / Set a timer for some minutes ~ 启动倒计时 / 设置若干分钟的计时器
P minutes,duration,mins,length small | The number of minutes / duration in minutes ~ 分钟数 / 时长（分钟）
E set a timer for {0} minutes / start a {0} minute timer / count down {0} minutes / timer {0} minutes / remind me in {0} minutes / give me {0} minutes on the timer / start a countdown of {0} minutes
Z 设置{0}分钟的计时器 / 倒计时{0}分钟 / 计时{0}分钟 / {0}分钟后提醒我 / 开始一个{0}分钟的倒计时 / 定时{0}分钟 / 帮我计时{0}分钟
F status:ok

N play_music play_song music_player play ~ 播放音乐 播放歌曲
D Play a song / Play music by title ~ 播放歌曲 / 播放音乐
P song,title,song_name,track_name phrase | The title of the song / name of the song ~ 歌曲名称 / 歌名
O artist,singer,by person | The singer / artist name ~ 歌手 / 演唱者 | by {} / , sung by {} ~ 歌手是{} / 要{}唱的
E play {0} / play the song {0} / I want to listen to {0} / put on {0} / start the song "{0}" / let me hear {0} / can we have some {0}?
Z 播放{0} / 放一首{0} / 我想听{0} / 来一首{0} / 播放歌曲《{0}》 / 听{0} / 给我放{0}
F status:ok

N control_light set_light switch_light light_control ~ 控制灯光 开关灯
D Turn the light of a room on or off / Control the lights ~ 打开或关闭房间的灯 / 控制灯光
P room,location,area room | The room / which room ~ 房间 / 哪个房间
P action,state,switch onoff | "on" or "off" / the state of the light ~ on 或 off / 灯的状态
E turn {1} the light in the {0} / switch {1} the {0} light / turn the {0} lights {1} / lights {1} in the {0} / put the lamp in the {0} {1} / {0} light {1} / make the light of the {0} go {1}
Z 把{0}的灯{1} / {1}{0}的灯 / {0}灯{1} / 将{0}灯光{1} / 请{1}{0}灯 / {0}的灯光{1}一下 / 给我{1}{0}的电灯
F status:ok

N book_flight flight_booking search_flights find_flights ~ 预订机票 查询航班
D Book a flight between two cities / Search flights / Find flights from one city to another ~ 预订两个城市之间的航班 / 查询航班 / 预订机票
P from_city,departure,origin,from city | The departure city / where the flight starts ~ 出发城市 / 出发地
P to_city,destination,arrival,to city | The arrival city / where to fly ~ 到达城市 / 目的地
O date,day,departure_date date | The date of departure / date ~ 出发日期 / 日期 | on {} / , date {} ~ 日期是{} / {}出发
E book a flight from {0} to {1} / I want to fly from {0} to {1} / find flights from {0} to {1} / are there flights from {0} to {1}? / get me a plane ticket from {0} to {1} / fly me from {0} to {1} / search a flight to {1} from {0}
Z 预订从{0}到{1}的机票 / 我想从{0}飞到{1} / 查询{0}到{1}的航班 / 有没有{0}去{1}的飞机？ / 买一张{0}到{1}的机票 / 订{0}飞{1}的航班 / 从{0}坐飞机去{1}
F flight:code price:int

N book_parking_space reserve_parking parking_reservation ~ 预约停车位
D Reserve a parking space for a car / Parking reservation ~ 为汽车预约停车位 / 停车预约
P plate,license_plate,car_number code | The license plate of the car / plate number ~ 车牌号 / 车牌
P hours,duration,num_hours small | For how many hours / hours of parking ~ 停车小时数 / 几个小时
E reserve a parking space for {0} for {1} hours / park my car {0} for {1} hours / I need parking for the car {0}, {1} hours / book {1} hours of parking for {0}
Z 给{0}预约{1}小时的停车位 / 车牌{0}要停{1}小时 / 为{0}订一个车位，{1}小时 / 我的车{0}需要停车{1}小时
F space:code

N search web_search google_search search_web ~ 搜索 网络搜索
D Search the web for information / Search engine ~ 在网上搜索信息 / 搜索引擎
P query,keyword,q,keywords phrase | The search words / query ~ 搜索关键词 / 查询内容
E search for {0} / search the web for {0} / google {0} / find information about {0} online / look up {0} on the internet / what can you find about {0}? / do a web search on {0}
Z 搜索{0} / 上网查一下{0} / 在网上搜{0} / 查找关于{0}的信息 / 百度一下{0} / 搜一搜{0} / 网上有没有{0}的资料？
F title:phrase url:url

N get_time current_time world_clock get_current_time ~ 查询时间 当前时间
D Get the current time in a city / World clock ~ 获取某个城市的当前时间 / 世界时钟
P city,location,place,timezone city | The city / name of the city ~ 城市 / 城市名称
E what time is it in {0}? / current time in {0} / tell me the time in {0} / what's the time in {0} now? / check the clock in {0} / time in {0} / is it late in {0} now?
Z {0}现在几点？ / {0}现在是什么时间？ / 查一下{0}的时间 / {0}当前时间 / 告诉我{0}几点了 / {0}几点钟了？ / 看看{0}现在的时间
F time:time

N order_food order_meal food_delivery place_order ~ 点餐 点外卖
D Order food for delivery / Order a meal ~ 点外卖 / 订餐
P dish,food,item,meal food | The dish to order / food ~ 要点的菜 / 食物
P quantity,count,number,portions small | How many / number of portions ~ 份数 / 数量
E order {1} portions of {0} / I'd like {1} {0} / get me {1} {0} / order {0}, {1} portions / can I have {1} {0}? / I want to eat {0}, {1} portions / deliver {1} {0}
Z 点{1}份{0} / 我要{1}份{0} / 来{1}份{0} / 订{1}份{0}外卖 / 帮我点{0}，{1}份 / 我想吃{0}，要{1}份 / 外卖{1}份{0}
F order_id:code price:int

N track_package package_tracking query_express track_parcel ~ 查询快递 快递查询
D Track a parcel by its number / Query the status of a delivery ~ 根据单号查询快递 / 查询包裹状态
P tracking_number,number,package_id,parcel_no code | The tracking number / number of the parcel ~ 快递单号 / 运单号
E where is my package {0}? / track the parcel {0} / check delivery {0} / status of package {0} / has my parcel {0} arrived? / follow the shipment {0} / what happened to my delivery {0}?
Z 查询快递{0} / 我的包裹{0}到哪了？ / 快递单号{0}的状态 / 追踪包裹{0} / {0}这个快递到了吗？ / 看看我的快递{0} / 运单{0}现在在哪里？
F status:word location:city

N make_call phone_call call dial ~ 打电话 拨打电话
D Call a phone number / Make a phone call ~ 拨打电话号码 / 打电话
P number,phone,phone_number,tel phone | The number to call / phone number ~ 电话号码 / 要拨的号码
E call {0} / dial {0} / phone {0} / make a call to {0} / ring the number {0} / call the number {0}
Z 打电话给{0} / 拨打{0} / 呼叫{0} / 给{0}打电话 / 拨号{0} / 帮我拨{0}
F status:ok

N get_horoscope horoscope daily_horoscope ~ 查询星座运势
D Read today's horoscope for a star sign / Horoscope ~ 查看星座的今日运势 / 星座运势
P sign,star_sign,zodiac sign | The star sign / sign of the zodiac ~ 星座 / 星座名称
E what is the horoscope for {0}? / read my horoscope, I am {0} / horoscope of {0} today / how are the stars for {0}?
Z {0}今天运势如何？ / 查一下{0}的运势 / 我是{0}，看看我的运势 / {0}的星座运势
F luck:small color:color

N text-to-speech text_to_speech tts speak read_aloud ~ 语音合成 文字转语音
D Convert text to speech / Read a text aloud ~ 将文本转换为语音 / 朗读文本
P text,content,sentence,words sentence | The text to convert into speech / text ~ 需要转换成语音的文本 / 文本
O voice,speaker,voice_type voice | The type of voice (male, female) / voice ~ 要使用的语音类型（男声、女声等） / 声音 | with a {} voice / in a {} voice ~ 用{} / 声音用{}
E read "{0}" aloud / say "{0}" out loud / convert "{0}" to speech / turn the text "{0}" into speech / speak "{0}" / pronounce "{0}" / make an audio of "{0}"
Z 朗读“{0}” / 把“{0}”转换成语音 / 念一下“{0}” / 用语音说“{0}” / 将“{0}”读出来 / 语音播报“{0}” / 大声读“{0}”
F audio:file

N convert_units unit_converter convert_unit unit_conversion ~ 单位换算
D Convert a value between units / Unit conversion ~ 单位换算 / 在不同单位之间换算数值
P value,amount,number float | The value to convert / number ~ 数值 / 要换算的数
P from_unit,source_unit,from unit | The unit to convert from / source unit ~ 原单位 / 源单位
P to_unit,target_unit,to unit | The unit to convert to / target unit ~ 目标单位 / 换算成的单位
E convert {0} {1} to {2} / how many {2} are {0} {1}? / what is {0} {1} in {2}? / {0} {1} in {2} / change {0} {1} into {2} / express {0} {1} in {2}
Z 把{0}{1}换算成{2} / {0}{1}等于多少{2}？ / {0}{1}是多少{2}？ / 将{0}{1}转换为{2} / {0}{1}有多少{2}？ / {0}{1}合多少{2}？
F result:float

N get_distance distance route_distance distance_between ~ 查询距离
D Get the distance between two places / How far two cities are apart ~ 查询两地之间的距离 / 两个城市相距多远
P start,origin,from,place_a city | The starting place / first place ~ 起点 / 第一个地点
P end,destination,to,place_b city | The destination / second place ~ 终点 / 第二个地点
E how far is it from {0} to {1}? / distance between {0} and {1} / what is the distance from {0} to {1}? / how many kilometers from {0} to {1}? / is {0} far from {1}? / measure the distance from {0} to {1}
Z 从{0}到{1}有多远？ / {0}到{1}的距离是多少？ / {0}离{1}多远？ / 查一下{0}和{1}之间的距离 / {0}到{1}多少公里？ / {0}距离{1}远吗？
F distance:int unit:unit

N create_note add_note write_note save_note take_note ~ 记笔记 创建笔记
D Write down a note / Save a note ~ 记下一条笔记 / 保存笔记
P content,text,note sentence | The content of the note / text ~ 笔记内容 / 内容
E note: {0} / write down "{0}" / take a note: {0} / save a note saying {0} / make a note that {0} / remember this for me: {0}
Z 记一下：{0} / 写下“{0}” / 帮我记笔记：{0} / 保存笔记“{0}” / 做个笔记：{0} / 记录“{0}”
F status:ok

N set_reminder create_reminder add_reminder remind_me reminder ~ 设置提醒 创建提醒
D Set a reminder for a time / Create a reminder ~ 在指定时间设置提醒 / 创建提醒
P content,text,task,what sentence | What to be reminded of / the text of the reminder ~ 提醒内容 / 提醒什么
P time,when,at,remind_time time | When to remind / time of the reminder ~ 提醒时间 / 时间
E remind me at {1}: {0} / at {1} remind me that {0} / set a reminder "{0}" for {1} / create a reminder at {1} saying {0} / don't let me forget: {0}, at {1} / reminder for {1}: {0}
Z {1}提醒我：{0} / 设置{1}的提醒“{0}” / 在{1}提醒我{0} / {1}的时候提醒我{0} / 创建提醒：{1}，{0} / 别忘了在{1}提醒我“{0}”
F status:ok

N set_temperature set_thermostat thermostat air_conditioner ~ 设置温度 调节空调
D Set the temperature of a room / Control the air conditioner ~ 设置房间温度 / 控制空调温度
P temperature,degrees,value,target small | The temperature in degrees / target temperature ~ 温度（摄氏度） / 目标温度
O room,location room | The room / which room ~ 房间 / 哪个房间 | in the {} / , room: {} ~ 房间是{} / 在{}
E set the temperature to {0} degrees / make it {0} degrees / thermostat to {0} / set the air conditioner to {0} degrees / I want {0} degrees / warm it to {0} degrees
Z 把温度调到{0}度 / 空调设为{0}度 / 将温度设置为{0}度 / 调到{0}度 / 温度{0}度 / 把空调开到{0}度
F status:ok

N rent_umbrella borrow_umbrella umbrella_rental ~ 借伞
D Borrow an umbrella at a station / Umbrella rental ~ 在车站借一把雨伞 / 雨伞租借
P station,place,stop city | The station / where to borrow ~ 车站 / 借伞地点
E borrow an umbrella at {0} station / I need an umbrella at {0} station / rent an umbrella at the station {0} / get me an umbrella in {0} station
Z 在{0}站借一把伞 / 我要在{0}站借伞 / {0}车站借雨伞 / 到{0}站租一把雨伞
F umbrella:code

N find_restaurant search_restaurants restaurant_finder recommend_restaurant ~ 查找餐厅 推荐餐厅
D Find restaurants in a city that serve some food / Restaurant search ~ 查找城市里供应某种食物的餐厅 / 餐厅搜索
P city,location,place city | The city / where to eat ~ 城市 / 用餐地点
P cuisine,food,dish food | The food / what to eat ~ 食物 / 想吃什么
E find a restaurant in {0} with {1} / where can I eat {1} in {0}? / I want to eat {1} in {0} / recommend a {1} restaurant in {0} / any good {1} in {0}? / look for {1} places in {0}
Z 在{0}找一家{1}餐厅 / {0}哪里可以吃{1}？ / 我想在{0}吃{1} / 推荐{0}的{1}店 / {0}有什么好吃的{1}？ / 查找{0}的{1}餐厅
F name:phrase rating:float

N get_news news search_news latest_news ~ 查询新闻 新闻
D Get the latest news about a topic / News search ~ 获取某个主题的最新新闻 / 新闻查询
P topic,keyword,subject,category topic | The topic of the news / keyword ~ 新闻主题 / 关键词
E what's the news about {0}? / get the latest news on {0} / any news about {0}? / show me headlines about {0} / news on {0} / what happened with {0} lately?
Z 有什么关于{0}的新闻？ / 查一下{0}的最新新闻 / {0}最近有什么新闻？ / 看看{0}的头条 / 关于{0}的新闻 / 我想看{0}的新闻
F headline:phrase source:word

N book_hotel hotel_booking reserve_hotel reserve_room ~ 预订酒店 订酒店
D Book a hotel room in a city / Hotel reservation ~ 预订城市的酒店 / 酒店预订
P city,location,destination city | The city of the hotel / where to stay ~ 城市 / 入住城市
P nights,days,num_nights small | How many nights / number of nights ~ 住几晚 / 晚数
O date,check_in,checkin_date date | The date of arrival / check-in date ~ 入住日期 / 日期 | from {} / , check-in {} ~ {}入住 / 日期{}
E book a hotel in {0} for {1} nights / I need a room in {0} for {1} nights / reserve {1} nights in {0} / find me a hotel in {0}, {1} nights / stay in {0} for {1} nights / get a hotel room for {1} nights in {0}
Z 预订{0}的酒店，住{1}晚 / 在{0}订{1}晚酒店 / 我要在{0}住{1}晚 / 订{0}的房间{1}晚 / 帮我在{0}找酒店，{1}个晚上 / {0}酒店{1}晚
F hotel:phrase price:int

N get_user_info user_info lookup_user get_user ~ 查询用户 用户信息
D Get the information of a user / Look up a user by name ~ 查询用户信息 / 根据姓名查找用户
P name,username,user,user_name person | The name of the user / user name ~ 用户姓名 / 用户名
E who is the user {0}? / look up {0} / get the information of user {0} / find the user {0} / show me the profile of {0} / what do we know about {0}?
Z 查询用户{0}的信息 / 用户{0}是谁？ / 找一下{0}这个用户 / 看看{0}的资料 / 查找用户{0} / 显示{0}的个人信息
F age:int city:city

N get_exchange_rate currency_rate query_rate fx_rate ~ 查询汇率
D Get the exchange rate between two currencies / Exchange rate query ~ 查询两种货币之间的汇率 / 汇率查询
P base,from,source_currency,currency1 currency | The base currency / first currency ~ 基准货币 / 第一种货币
P target,to,target_currency,currency2 currency | The target currency / second currency ~ 目标货币 / 第二种货币
E what is the exchange rate of {0} to {1}? / {0} to {1} rate / exchange rate between {0} and {1} / how does {0} stand against {1}? / check the {0}/{1} rate / rate from {0} to {1}
Z {0}对{1}的汇率是多少？ / 查询{0}兑{1}的汇率 / {0}和{1}的汇率 / 今天{0}换{1}的汇率怎么样？ / 看看{0}对{1}汇率 / {0}兑换{1}的汇率
F rate:float

N run_shell shell execute_command terminal ~ 执行命令
D Run a command on the machine / Execute a shell command ~ 在机器上执行命令 / 运行命令
P command,cmd,line command | The command to run / command line ~ 要执行的命令 / 命令
E run {0} / execute the command {0} / run `{0}` / what does {0} print? / type {0} in the terminal / please do {0} in the shell
Z 执行命令{0} / 运行{0} / 执行`{0}` / 在终端里运行{0} / 运行一下{0}命令 / 跑一下{0}
F output:word

N feed_pet pet_feeder feed_animal ~ 喂宠物
D Feed a pet with some grams of food / Pet feeder ~ 给宠物喂若干克食物 / 宠物喂食器
P pet,animal,which animal | The pet to feed / animal ~ 要喂的宠物 / 动物
P grams,amount,weight int | Grams of food / how much food ~ 食物克数 / 多少食物
E feed the {0} {1} grams / give the {0} {1} grams of food / the {0} is hungry, feed it {1} grams / {1} grams of food for the {0}
Z 给{0}喂{1}克 / 喂{0}{1}克食物 / {0}饿了，喂{1}克 / 给{0}{1}克粮食
F status:ok

N read_file open_file load_file get_file_content ~ 读取文件
D Read the content of a file / Open a text file ~ 读取文件内容 / 打开文件
P path,file,filename,file_path file | The path of the file / file name ~ 文件路径 / 文件名
E read the file {0} / what is in {0}? / open {0} / show me the content of {0} / load {0} / what does {0} contain?
Z 读取文件{0} / {0}里有什么？ / 打开{0} / 看看{0}的内容 / 显示文件{0} / 读一下{0}
F content:phrase

N delete_file remove_file erase_file ~ 删除文件
D Delete a file / Remove a file from the disk ~ 删除文件 / 从磁盘删除文件
P path,file,filename,target file | The file to delete / path ~ 要删除的文件 / 路径
E delete {0} / remove the file {0} / erase {0} / get rid of {0} / I don't need {0} any more, delete it / throw away {0}
Z 删除{0} / 把文件{0}删掉 / 移除{0} / 清除文件{0} / 不需要{0}了，删除它 / 把{0}扔掉
F status:ok

N draw_image generate_image text_to_image paint ~ 画图 生成图片
D Draw a picture from a description / Generate an image ~ 根据描述画一张图 / 生成图片
P prompt,description,text phrase | What to draw / description of the picture ~ 画面描述 / 要画的内容
E draw {0} / paint a picture of {0} / generate an image of {0} / make me a picture of {0} / I want to see {0} in a picture / create an image with {0}
Z 画一张{0} / 画{0} / 生成{0}的图片 / 给我画{0} / 帮我做一张{0}的图 / 我想要一张{0}的画
F image:file

N get_stock_of_product check_inventory inventory query_stock_level ~ 查询库存
D Check how many pieces of a product are in stock / Inventory query ~ 查询商品库存 / 库存查询
P product,item,product_name,sku phrase | The product / name of the product ~ 商品 / 商品名称
E how many {0} are in stock? / check the inventory of {0} / do we still have {0}? / stock level of {0} / is {0} available? / how much {0} is left in the warehouse?
Z {0}还有多少库存？ / 查一下{0}的库存 / {0}有货吗？ / 仓库里还有{0}吗？ / {0}的库存量 / {0}还剩多少？
F stock:int

N get_poem find_poem poem_search ~ 查找诗词
D Find a poem by its title / Poem search ~ 根据标题查找诗词 / 诗词搜索
P title,poem,name phrase | The title of the poem / poem ~ 诗词标题 / 诗名
E find the poem {0} / show me the poem "{0}" / look for a poem called {0} / read me the poem {0}
Z 查找诗词《{0}》 / 找一首叫{0}的诗 / 给我看{0}这首诗 / 背诵《{0}》
F author:person

N count_words word_count text_length ~ 统计字数
D Count the words of a text / Word count ~ 统计文本的字数 / 字数统计
P text,content,passage sentence | The text / text to count ~ 文本 / 要统计的文本
E how many words are in "{0}"? / count the words of "{0}" / word count of "{0}" / how long is the text "{0}"?
Z “{0}”有多少个字？ / 统计“{0}”的字数 / 数一数“{0}”有几个字 / “{0}”一共多少字？
F count:int

N renew_book library_renew renew_loan ~ 续借图书
D Renew the loan of a library book / Library book renewal ~ 续借图书馆的书 / 图书续借
P book,title,book_title phrase | The title of the book / book ~ 书名 / 图书
O weeks,num_weeks small | For how many weeks / weeks ~ 几周 / 续借周数 | for {} weeks / , {} weeks ~ {}周 / 续{}周
E renew the book {0} / I want to keep {0} longer / extend my loan of "{0}" / the library book {0} needs renewal
Z 续借《{0}》 / 我想续借{0}这本书 / 图书{0}要续借 / 延长{0}的借阅
F due_date:date
"""


@dataclass(frozen=True)
class Param:
    """One parameter: key variants, the kind of its values, descriptions, and (if optional) how it is mentioned."""

    keys: tuple[str, ...]
    kind: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    mention: dict[str, tuple[str, ...]] | None = None


@dataclass
class Domain:
    """A tool that people try, before it is made concrete."""

    names: tuple[str, ...] = ()
    names_zh: tuple[str, ...] = ()
    descriptions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    params: list[Param] = field(default_factory=list)
    asks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()


def _split(text: str, by: str = "/") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(f" {by} "))


def _both(text: str) -> dict[str, tuple[str, ...]]:
    en, zh = text.split(" ~ ")
    return {"en": _split(en), "zh": _split(zh)}


def _param(text: str) -> Param:
    head, texts, *mention = text.split(" | ")
    keys, kind = head.split()
    both = _both(texts)
    return Param(tuple(keys.split(",")), kind, both["en"], both["zh"], _both(mention[0]) if mention else None)


def _parse(block: str) -> Domain:
    domain = Domain()
    for line in block.strip().splitlines():
        mark, text = line[0], line[2:]
        if mark == "N":
            en, zh = text.split(" ~ ")
            domain.names, domain.names_zh = tuple(en.split()), tuple(zh.split())
        elif mark == "D":
            domain.descriptions = _both(text)
        elif mark in "PO":
            domain.params.append(_param(text))
        elif mark in "EZ":
            domain.asks["en" if mark == "E" else "zh"] = _split(text)
        else:
            domain.fields = tuple((f.split(":")[0], f.split(":")[1]) for f in text.split())
    return domain


DOMAINS: tuple[Domain, ...] = tuple(_parse(block) for block in TABLE.strip().split("\n\n"))

DEV = frozenset({"rent_umbrella", "feed_pet", "get_poem", "delete_file", "get_stock_of_product"})
HELDOUT = frozenset(
    {"book_parking_space", "find_restaurant", "read_file", "get_horoscope", "renew_book", "count_words"}
)


def domains(split: str) -> tuple[Domain, ...]:
    """The tools of a split; those of "dev" and "heldout" never occur in training."""
    kept_apart = {"dev": DEV, "heldout": HELDOUT}
    if split in kept_apart:
        return tuple(d for d in DOMAINS if d.names[0] in kept_apart[split])
    return tuple(d for d in DOMAINS if d.names[0] not in DEV | HELDOUT)
