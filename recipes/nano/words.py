# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""The word lists behind nano's data, in English and Chinese, and the rule that keeps the splits apart.

Every list is cut by position: of each seven entries five are for training, one is for development ("dev") and
one is held out. A list shorter than seven belongs to training and is shared (weekdays, units and the like).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeVar

Split = Literal["train", "dev", "heldout"]
Lang = Literal["en", "zh"]
T = TypeVar("T")

_PERIOD = 7


@lru_cache(maxsize=4096)
def _cut(items: tuple[T, ...], split: Split) -> tuple[T, ...]:
    if len(items) < _PERIOD:
        return items
    keep = {"train": range(_PERIOD - 2), "dev": (_PERIOD - 2,), "heldout": (_PERIOD - 1,)}[split]
    return tuple(item for i, item in enumerate(items) if i % _PERIOD in keep)


def part(items: Sequence[T], split: Split) -> tuple[T, ...]:
    """The entries of `items` that belong to `split`; no entry belongs to two splits."""
    return _cut(tuple(items), split)


def pairs(table: str) -> tuple[tuple[str, str], ...]:
    """Read `english=chinese` entries separated by semicolons."""
    entries = [entry.strip() for entry in table.replace("\n", " ").split(";")]
    return tuple((e.split("=")[0].strip(), e.split("=")[1].strip()) for e in entries if e)


# What a thing can have: a value that one can ask for, set, or remember.
FIELDS = pairs("""
price=价格; weight=重量; height=高度; length=长度; width=宽度; color=颜色; size=尺寸; status=状态; rating=评分; address=地址;
owner=主人; author=作者; title=标题; date=日期; duration=时长; distance=距离; speed=速度; temperature=温度; humidity=湿度;
balance=余额; password=密码; deadline=截止日期; budget=预算; salary=工资; discount=折扣; quantity=数量; category=类别;
brand=品牌; model=型号; version=版本; location=位置; capacity=容量; population=人口; area=面积; depth=深度; voltage=电压;
score=分数; grade=成绩; rank=排名; level=等级; age=年龄; birthday=生日; gender=性别; job=职业; hobby=爱好; nickname=昵称;
phone number=电话号码; email=邮箱; website=网站; company=公司; department=部门; manager=经理; team=团队; project=项目;
topic=主题; language=语言; subject=科目; teacher=老师; school=学校; class=班级; room=房间; floor=楼层; seat=座位;
gate=登机口; platform=站台; route=路线; destination=目的地; origin=出发地; departure time=出发时间; arrival time=到达时间;
start date=开始日期; end date=结束日期; schedule=日程; reason=原因; purpose=目的; priority=优先级; tag=标签; note=备注;
message=消息; content=内容; description=描述; summary=摘要; comment=评论; question=问题; answer=答案; keyword=关键词;
file name=文件名; folder=文件夹; format=格式; code=代码; number=编号; account=账户; currency=货币; amount=金额; rate=利率;
tax=税; fee=费用; cost=成本; profit=利润; income=收入; volume=音量; brightness=亮度; mode=模式; channel=频道; frequency=频率;
angle=角度; shape=形状; material=材料; texture=质地; flavor=口味; ingredient=配料; recipe=食谱; calories=热量; dose=剂量;
symptom=症状; doctor=医生; hospital=医院; blood type=血型; allergy=过敏; pet=宠物; breed=品种; species=物种; habitat=栖息地;
season=季节; climate=气候; wind=风力; pressure=气压; altitude=海拔; coordinates=坐标; time zone=时区; region=地区;
country=国家; capital=首都; street=街道; postcode=邮编; station=车站; line=线路; license plate=车牌; engine=发动机;
mileage=里程; fuel=油耗; battery=电量; memory=内存; screen=屏幕; resolution=分辨率; warranty=保修期; supplier=供应商;
customer=客户; sender=寄件人; receiver=收件人; recipient=收信人; guest=客人; host=主持人; winner=获胜者; player=球员;
coach=教练; stadium=体育场; opponent=对手; song=歌曲; singer=歌手; album=专辑; genre=风格; lyrics=歌词; instrument=乐器;
director=导演; actor=演员; plot=情节; publisher=出版社; edition=版次; page count=页数; chapter=章节; font=字体; theme=主题色;
background=背景; layout=布局; icon=图标; sound=声音; alarm=闹钟; timer=计时器; reminder=提醒; goal=目标; habit=习惯;
dream=梦想; lucky number=幸运数字; secret word=暗号; favorite city=最喜欢的城市; meeting place=见面地点; shoe size=鞋码;
""")

# Things that tools act on.
OBJECTS = pairs("""
book=图书; order=订单; ticket=车票; hotel=酒店; flight=航班; train=火车; car=汽车; bus=公交; taxi=出租车; bike=自行车;
movie=电影; song=歌曲; podcast=播客; video=视频; photo=照片; document=文档; file=文件; report=报告; invoice=发票;
contract=合同; package=包裹; product=商品; customer=客户; employee=员工; student=学生; course=课程; exam=考试; lesson=课时;
task=任务; event=活动; meeting=会议; appointment=预约; reminder=提醒; alarm=闹钟; note=笔记; recipe=菜谱; restaurant=餐厅;
table=餐桌; meal=餐食; drink=饮料; coffee=咖啡; pizza=披萨; cake=蛋糕; garden=花园; plant=植物; tree=树木; animal=动物;
pet=宠物; dog=狗; cat=猫; bird=鸟; fish=鱼; horse=马; museum=博物馆; park=公园; library=图书馆; school=学校; hospital=医院;
doctor=医生; patient=病人; medicine=药品; prescription=处方; bank=银行; account=账户; card=银行卡; loan=贷款; payment=付款;
stock=股票; fund=基金; bond=债券; coin=硬币; house=房屋; apartment=公寓; room=房间; office=办公室; parking lot=停车场;
light=灯; lamp=台灯; door=门; window=窗户; curtain=窗帘; fan=风扇; heater=暖气; oven=烤箱; washing machine=洗衣机;
robot=机器人; printer=打印机; server=服务器; database=数据库; network=网络; website=网站; domain=域名; app=应用; game=游戏;
player=玩家; team=球队; match=比赛; race=赛跑; tournament=锦标赛; planet=行星; star=恒星; mountain=山峰; river=河流;
lake=湖泊; island=岛屿; country=国家; city=城市; street=街道; bridge=桥梁; tower=塔楼; ship=轮船; satellite=卫星;
rocket=火箭; camera=相机; phone=手机; laptop=笔记本电脑; tablet=平板; watch=手表; shirt=衬衫; shoes=鞋子; jacket=夹克;
bag=包; toy=玩具; gift=礼物; letter=信件; email=邮件; message=短信; chat room=聊天室; group=群组; playlist=歌单; album=相册;
poem=诗歌; novel=小说; article=文章; news=新闻; magazine=杂志; painting=画作; concert=音乐会; festival=节日; wedding=婚礼;
trip=旅行; tour=旅游; visa=签证; passport=护照; license=驾照; insurance=保险; battery=电池; sensor=传感器; machine=机器;
factory=工厂; warehouse=仓库; shop=商店; market=市场; farm=农场; field=田地; crop=农作物; sample=样品; experiment=实验;
element=元素; molecule=分子; formula=公式; theorem=定理; word=单词; sentence=句子; dictionary=词典; translation=译文;
""")

# Verbs of tools that look something up, and of tools that do something: (name stem, english, chinese).
LOOKUP_VERBS = (
    ("get", "Get", "获取"), ("query", "Query", "查询"), ("find", "Find", "查找"), ("lookup", "Look up", "查看"),
    ("fetch", "Fetch", "读取"), ("search", "Search for", "搜索"), ("check", "Check", "检查"), ("show", "Show", "显示"),
    ("retrieve", "Retrieve", "检索"), ("read", "Read", "读出"), ("inspect", "Inspect", "查验"),
    ("tell", "Tell", "告知"), ("view", "View", "浏览"), ("obtain", "Obtain", "取得"),
)  # fmt: skip
ACTION_VERBS = (
    ("create", "Create", "创建"), ("add", "Add", "添加"), ("delete", "Delete", "删除"), ("update", "Update", "更新"),
    ("book", "Book", "预订"), ("cancel", "Cancel", "取消"), ("reserve", "Reserve", "预留"), ("send", "Send", "发送"),
    ("start", "Start", "启动"), ("stop", "Stop", "停止"), ("open", "Open", "打开"), ("close", "Close", "关闭"),
    ("buy", "Buy", "购买"), ("sell", "Sell", "出售"), ("rename", "Rename", "重命名"), ("copy", "Copy", "复制"),
    ("move", "Move", "移动"), ("share", "Share", "分享"), ("print", "Print", "打印"), ("upload", "Upload", "上传"),
    ("download", "Download", "下载"), ("rent", "Rent", "租"), ("repair", "Repair", "维修"), ("clean", "Clean", "清理"),
    ("register", "Register", "登记"), ("approve", "Approve", "批准"), ("assign", "Assign", "分配"),
    ("schedule", "Schedule", "安排"), ("archive", "Archive", "归档"), ("publish", "Publish", "发布"),
    ("lock", "Lock", "锁定"), ("unlock", "Unlock", "解锁"), ("ship", "Ship", "寄出"), ("return", "Return", "退回"),
    ("rate", "Rate", "评价"),
)  # fmt: skip

CITIES = pairs("""
Beijing=北京; Shanghai=上海; Paris=巴黎; London=伦敦; New York=纽约; Tokyo=东京; Berlin=柏林; Guangzhou=广州; Shenzhen=深圳;
Hangzhou=杭州; Chengdu=成都; Nanjing=南京; Wuhan=武汉; Xi'an=西安; Chongqing=重庆; Tianjin=天津; Suzhou=苏州; Qingdao=青岛;
Dalian=大连; Xiamen=厦门; Harbin=哈尔滨; Kunming=昆明; Lhasa=拉萨; Hong Kong=香港; Taipei=台北; Macau=澳门; Seoul=首尔;
Singapore=新加坡; Bangkok=曼谷; Delhi=德里; Mumbai=孟买; Sydney=悉尼; Melbourne=墨尔本; Toronto=多伦多; Vancouver=温哥华;
Chicago=芝加哥; Boston=波士顿; San Francisco=旧金山; Los Angeles=洛杉矶; Seattle=西雅图; Miami=迈阿密; Houston=休斯顿;
Madrid=马德里; Barcelona=巴塞罗那; Rome=罗马; Milan=米兰; Venice=威尼斯; Vienna=维也纳; Prague=布拉格; Warsaw=华沙;
Moscow=莫斯科; Kyiv=基辅; Athens=雅典; Istanbul=伊斯坦布尔; Cairo=开罗; Nairobi=内罗毕; Lagos=拉各斯; Dublin=都柏林;
Lisbon=里斯本; Oslo=奥斯陆; Stockholm=斯德哥尔摩; Helsinki=赫尔辛基; Copenhagen=哥本哈根; Amsterdam=阿姆斯特丹;
Brussels=布鲁塞尔; Zurich=苏黎世; Geneva=日内瓦; Munich=慕尼黑; Hamburg=汉堡; Hanoi=河内; Manila=马尼拉; Jakarta=雅加达;
Dubai=迪拜; Tehran=德黑兰; Changsha=长沙; Zhengzhou=郑州; Jinan=济南; Hefei=合肥; Fuzhou=福州; Nanning=南宁; Guiyang=贵阳;
Lanzhou=兰州; Xining=西宁; Yinchuan=银川; Urumqi=乌鲁木齐; Hohhot=呼和浩特; Shenyang=沈阳; Changchun=长春; Haikou=海口;
Sanya=三亚; Ningbo=宁波; Wuxi=无锡; Zhuhai=珠海; Osaka=大阪; Kyoto=京都; Lima=利马; Bogota=波哥大; Havana=哈瓦那;
""")
FOODS = pairs("""
apple=苹果; banana=香蕉; rice=米饭; noodles=面条; bread=面包; cheese=奶酪; pizza=披萨; sushi=寿司; dumplings=饺子; soup=汤;
salad=沙拉; chocolate=巧克力; ice cream=冰淇淋; coffee=咖啡; tea=茶; milk=牛奶; beef=牛肉; chicken=鸡肉; tofu=豆腐; eggs=鸡蛋;
hot pot=火锅; grapes=葡萄; peach=桃子; mango=芒果; lemon=柠檬; watermelon=西瓜; tomato=番茄; potato=土豆; carrot=胡萝卜;
curry=咖喱; pasta=意大利面; burger=汉堡包; steak=牛排; cookies=饼干; honey=蜂蜜; strawberries=草莓; cherries=樱桃; shrimp=虾;
""")
ANIMALS = pairs("""
cat=猫; dog=狗; rabbit=兔子; horse=马; parrot=鹦鹉; turtle=乌龟; hamster=仓鼠; goldfish=金鱼; panda=熊猫; tiger=老虎; lion=狮子;
elephant=大象; monkey=猴子; fox=狐狸; wolf=狼; bear=熊; owl=猫头鹰; duck=鸭子; goat=山羊; snake=蛇; penguin=企鹅; whale=鲸鱼;
""")
JOBS = pairs("""
teacher=老师; doctor=医生; nurse=护士; engineer=工程师; programmer=程序员; student=学生; driver=司机; cook=厨师; lawyer=律师;
farmer=农民; painter=画家; singer=歌手; writer=作家; pilot=飞行员; designer=设计师; manager=经理; scientist=科学家; actor=演员;
photographer=摄影师; journalist=记者; accountant=会计; dentist=牙医; musician=音乐家; architect=建筑师; baker=面包师;
""")
COLORS = pairs("""
red=红色; blue=蓝色; green=绿色; yellow=黄色; black=黑色; white=白色; purple=紫色; orange=橙色; pink=粉色; brown=棕色; gray=灰色;
gold=金色; silver=银色; cyan=青色; crimson=深红色; navy=藏青色; turquoise=青绿色; violet=紫罗兰色;
""")
SPORTS = pairs("""
football=足球; basketball=篮球; tennis=网球; swimming=游泳; running=跑步; chess=国际象棋; badminton=羽毛球; table tennis=乒乓球;
hiking=徒步; skiing=滑雪; cycling=骑车; reading=阅读; painting=画画; dancing=跳舞; singing=唱歌; cooking=做饭; fishing=钓鱼;
photography=摄影; gardening=园艺; yoga=瑜伽; travelling=旅行; climbing=爬山; surfing=冲浪; knitting=编织; boxing=拳击;
""")
ROOMS = pairs("""
living room=客厅; bedroom=卧室; kitchen=厨房; bathroom=浴室; study=书房; garage=车库; hallway=走廊; balcony=阳台; office=办公室;
dining room=餐厅; basement=地下室; attic=阁楼; nursery=婴儿房; laundry room=洗衣房;
""")
LANGUAGES = pairs("""
English=英语; Chinese=中文; French=法语; German=德语; Spanish=西班牙语; Japanese=日语; Korean=韩语; Russian=俄语; Italian=意大利语;
Arabic=阿拉伯语; Portuguese=葡萄牙语; Hindi=印地语; Thai=泰语; Greek=希腊语; Dutch=荷兰语; Swedish=瑞典语; Turkish=土耳其语;
""")
CURRENCIES = pairs("""
USD=美元; CNY=人民币; EUR=欧元; JPY=日元; GBP=英镑; KRW=韩元; HKD=港币; CHF=瑞士法郎; AUD=澳元; CAD=加元; RUB=卢布; INR=卢比;
THB=泰铢; SGD=新加坡元; SEK=瑞典克朗; MXN=墨西哥比索;
""")
COMPANIES = pairs("""
Apple=苹果; Google=谷歌; Microsoft=微软; Tesla=特斯拉; Amazon=亚马逊; Huawei=华为; Tencent=腾讯; Alibaba=阿里巴巴; Baidu=百度;
Xiaomi=小米; Sony=索尼; Samsung=三星; Intel=英特尔; Nvidia=英伟达; Toyota=丰田; Boeing=波音; Nike=耐克; Nokia=诺基亚; Lenovo=联想;
BYD=比亚迪; Siemens=西门子; IBM=国际商业机器; Ford=福特; Netflix=奈飞; Meituan=美团; Volvo=沃尔沃; Oracle=甲骨文; Pfizer=辉瑞;
""")
ADJECTIVES = pairs("""
new=新; old=旧; small=小; big=大; red=红; blue=蓝; quick=快; slow=慢; quiet=安静; warm=温暖; cold=寒冷; bright=明亮; dark=黑暗;
happy=快乐; lucky=幸运; secret=秘密; golden=金色; silver=银色; wild=野生; gentle=温柔; lonely=孤独; strange=奇怪; famous=著名;
modern=现代; ancient=古老; sweet=甜; bitter=苦; heavy=沉重; light=轻; fresh=新鲜; dry=干燥; wet=潮湿; hidden=隐藏; broken=破碎;
""")
# Words of open questions, which nano cannot answer.
TOPICS = pairs("""
quantum physics=量子物理; the French Revolution=法国大革命; black holes=黑洞; photosynthesis=光合作用; the Roman Empire=罗马帝国;
inflation=通货膨胀; dinosaurs=恐龙; the Tang dynasty=唐朝; neural networks=神经网络; climate change=气候变化; Shakespeare=莎士比亚;
the moon landing=登月; vaccines=疫苗; volcanoes=火山; Confucius=孔子; the stock market=股市; yoga=瑜伽; diabetes=糖尿病;
blockchain=区块链; evolution=进化论; Beethoven=贝多芬; the Great Wall=长城; gravity=引力; democracy=民主; insomnia=失眠;
the internet=互联网; the silk road=丝绸之路; DNA=基因; coffee=咖啡; the Olympics=奥运会; Einstein=爱因斯坦; jazz=爵士乐;
the Second World War=第二次世界大战; acupuncture=针灸; Antarctica=南极洲; cancer=癌症; chess=国际象棋; electric cars=电动车;
the Bible=圣经; tea=茶; Mars=火星; the pyramids=金字塔; Buddhism=佛教; supply and demand=供求关系; earthquakes=地震;
Li Bai=李白; Napoleon=拿破仑; ocean currents=洋流; antibiotics=抗生素; the Beatles=披头士; calligraphy=书法; robots=机器人;
the human brain=人脑; nuclear fusion=核聚变; solar panels=太阳能板; impressionism=印象派; tigers=老虎; bees=蜜蜂; love=爱情;
football=足球; marriage=婚姻; the meaning of life=人生的意义; time travel=时间旅行; the Renaissance=文艺复兴; poetry=诗歌;
linear algebra=线性代数; Kubernetes=容器编排; Rust=编程语言; compilers=编译器; taxes=税收; headaches=头痛; dreams=梦;
""")
GIVEN = tuple(
    """
    Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Mary Nina Oscar Paul Rosa Sam Tina
    Victor Wendy Alice Bob Carol Dan Eva Fred Gina Hugo Ivan Julia Karl Lucy Max Nora Olga Peter Quinn
    Ruth Sofia Tom Uma Vera Will Xavier Yara Zoe Adam Bella Cyrus Diana Elena Felix Gloria Hannah Igor
    Jonas Kira Liam Mia Noah Olivia Pedro Rachel Simon Theo Lena Marco Amir Priya Ravi Yuki Kenji Chloe
    Lars Ingrid Fatima Omar Aisha Diego Mateo Camila Bruno Greta Otto Heidi Pavel Nadia Irina John
    Michael Sarah James Robert Linda Susan Karen Laura Kevin Brian Jason Eric Amy Helen Rose Ella Mila
    Ethan Lucas
""".split()  # noqa: SIM905 (shorter to read)
)
SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易常武乔贺赖龚文"
GIVEN_ZH = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红梅春雪琴云飞鹏宇浩然子轩梓涵欣怡诗雨晨思远嘉琪文博佳慧晓东志远建国小天一鸣可心若曦俊凯天佑雅婷梦瑶海燕立新庆丰长青家豪书瑶泽楠依诺安琪"
GIVEN_ZH_HELD = "卓岚翰妍墨竹澜朔霏骁柠穆煜珂桐黛熙彦渊锦"
"""Characters of Chinese given names, for training and (apart) for the held-out cases."""
