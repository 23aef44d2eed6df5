() => {
    const root = document.documentElement;
    const dark = () => document.body.classList.contains("dark");
    const paint = (theme) => document.body.classList.toggle("dark", theme === "dark");
    const kept = localStorage.getItem("chatglm3-theme");
    if (kept) paint(kept);
    root.lang = location.pathname.includes("/zh") ? "zh" : "en";

    // On a phone the side would cover the conversation.
    if (innerWidth < 768) document.querySelector("#side.open .toggle-button")?.click();

    const click = (selector) => document.querySelector(selector)?.click();
    window.chatglm3 = {
        theme: () => {
            const theme = dark() ? "light" : "dark";
            localStorage.setItem("chatglm3-theme", theme);
            paint(theme);
        },
        language: (code) => {
            document.cookie = `chatglm3_language=${code}; path=/; max-age=31536000; samesite=strict`;
            location.href = `../${code}/${location.search}`;
        },
    };
    document.addEventListener("click", (event) => {
        const action = event.target.closest?.("[data-action]")?.dataset.action;
        if (action === "theme") window.chatglm3.theme();
        if (action?.startsWith("language:")) window.chatglm3.language(action.slice(9));
    });
    document.addEventListener("keydown", (event) => {
        if (event.key === "Escape") click("#message .stop-button");
        if (!event.altKey || event.ctrlKey || event.metaKey) return;
        if (event.code === "KeyN") { event.preventDefault(); click("#new"); }
        if (event.code === "KeyM") {
            event.preventDefault();
            const modes = [...document.querySelectorAll("#mode input")];
            const next = modes[(modes.findIndex((mode) => mode.checked) + 1) % modes.length];
            next?.click();
        }
    });
}
