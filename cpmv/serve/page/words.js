// Every word the page itself says, in English and Chinese, and the switch between them.

const WORDS = {
  en: {
    skip: "Skip to the question", history: "History", toggle_history: "Show or hide history", new_chat: "New chat",
    local_only: "History stays in this browser.", conversation: "Conversation", attached: "Attached files",
    ask: "Ask about it", attach: "Attach pictures, videos or PDFs", depth: "How to answer", fast: "Fast", deep: "Deep",
    fast_hint: "Answer at once", deep_hint: "Reason first, then answer",
    send: "Send", stop: "Stop", caution: "Answers can be wrong; check what matters.", to_end: "Jump to the end",
    welcome: "What shall we look at?",
    welcome_hint: "Drop a picture, a video or a PDF anywhere, paste one, or pick a file.",
    drop_here: "Drop pictures, videos or PDFs", close: "Close", theme_auto: "Auto", theme_light: "Light", theme_dark: "Dark",
    theme: "Theme: {0}", today: "Today", yesterday: "Yesterday", earlier: "Earlier", remove: "Remove {0}",
    delete_chat: "Delete “{0}”", deleted: "Deleted.", undo: "Undo", you: "You", model: "Model", copy: "Copy", copied: "Copied", retry: "Retry",
    edit: "Edit", thinking: "Thinking", thought: "Thought for {0} s", thought_plain: "Thinking", answering: "Answering…",
    stopped: "Stopped", cut: "Cut off at the longest allowed answer", answer_ready: "Answer: {0}",
    see: "What the model sees", see_of: "What the model sees of {0}", tokens: "{0} visual tokens", tokens_short: "{0} tokens",
    read: "{0} tokens read", visual: "{0} visual", cached: "{0} cached", written: "{0} written", per_second: "{0} a second",
    whole: "The whole picture", size: "{0} × {1} pixels", not_sliced: "Seen whole, at {0} × {1} pixels: {2} tokens",
    sliced: "{0} × {1} slices of {2} × {3} pixels, and an overview of {4} × {5}", each: "{0} tokens each",
    slice: "Slice {0}", overview: "Overview", page: "Page {0}", pages: "{0} pages", package: "Package {0}", frames: "{0} frames",
    frames_in: "{0} frames in {1} packages", video_line: "{0} s of {1} × {2} pixels", detail: "Most slices",
    rate: "Frames a second", packing: "Frames a package", auto: "auto", looking: "Looking…",
    no_preview: "This server tells no preview.", picture: "picture", video: "video", document: "document",
    key_title: "This server asks for a key", key_hint: "It is kept until this tab is closed.", key: "API key", use_key: "Use it",
    wrong_key: "The key is needed, or was wrong.", busy: "The server is busy; try again in {0} s.",
    offline: "The server cannot be reached.", broken: "The answer broke off: {0}", too_large: "{0} has {1} MB; at most {2} MB can be sent.",
    unreadable: "{0} is no picture, video or PDF.", no_storage: "This browser keeps no history here.", nothing: "(no words)", table: "Table",
    ideas: ["Read the text.", "Describe the picture.", "Convert the table to Markdown.", "What happens in the video?"],
  },
  zh: {
    skip: "跳到提问框", history: "历史记录", toggle_history: "显示或隐藏历史记录", new_chat: "新对话",
    local_only: "历史记录只保存在此浏览器中。", conversation: "对话", attached: "已添加的文件",
    ask: "提个问题", attach: "添加图片、视频或 PDF", depth: "回答方式", fast: "快速", deep: "深入",
    fast_hint: "直接回答", deep_hint: "先思考，再回答",
    send: "发送", stop: "停止", caution: "回答可能有误，重要内容请核实。", to_end: "跳到末尾",
    welcome: "今天看点什么？", welcome_hint: "把图片、视频或 PDF 拖到页面任意位置，也可以粘贴或选择文件。",
    drop_here: "松开即可添加图片、视频或 PDF", close: "关闭", theme_auto: "自动", theme_light: "浅色", theme_dark: "深色",
    theme: "外观：{0}", today: "今天", yesterday: "昨天", earlier: "更早", remove: "移除 {0}",
    delete_chat: "删除“{0}”", deleted: "已删除。", undo: "撤销", you: "你", model: "模型", copy: "复制", copied: "已复制", retry: "重试",
    edit: "编辑", thinking: "思考中", thought: "思考了 {0} 秒", thought_plain: "思考过程", answering: "正在回答……",
    stopped: "已停止", cut: "已达到回答长度上限", answer_ready: "回答：{0}",
    see: "模型看到的内容", see_of: "模型看到的 {0}", tokens: "{0} 个视觉 token", tokens_short: "{0} token",
    read: "读取 {0} token", visual: "视觉 {0}", cached: "缓存 {0}", written: "生成 {0}", per_second: "每秒 {0}",
    whole: "整张图片", size: "{0} × {1} 像素", not_sliced: "整体查看，{0} × {1} 像素：{2} token",
    sliced: "{0} × {1} 个切片，每个 {2} × {3} 像素，另有 {4} × {5} 的概览", each: "每个 {0} token",
    slice: "切片 {0}", overview: "概览", page: "第 {0} 页", pages: "{0} 页", package: "第 {0} 组", frames: "{0} 帧",
    frames_in: "{0} 帧，分为 {1} 组", video_line: "{0} 秒，{1} × {2} 像素", detail: "最多切片数",
    rate: "每秒帧数", packing: "每组帧数", auto: "自动", looking: "正在查看……",
    no_preview: "此服务器不提供预览。", picture: "图片", video: "视频", document: "文档",
    key_title: "此服务器需要密钥", key_hint: "关闭此标签页后即清除。", key: "API 密钥", use_key: "使用",
    wrong_key: "需要密钥，或密钥有误。", busy: "服务器繁忙，请在 {0} 秒后重试。",
    offline: "无法连接服务器。", broken: "回答中断：{0}", too_large: "{0} 有 {1} MB，最多可发送 {2} MB。",
    unreadable: "{0} 不是图片、视频或 PDF。", no_storage: "此浏览器无法在这里保存历史记录。", nothing: "（没有文字）", table: "表格",
    ideas: ["请读出图中的文字。", "描述这张图片。", "把表格转换为 Markdown。", "视频里发生了什么？"],
  },
};

let language = "en";

/** The words for a key in the present language, with {0}, {1}, ... replaced. */
export function t(key, ...values) {
  const words = WORDS[language][key];
  return typeof words === "string" ? words.replace(/\{(\d)\}/g, (_, i) => values[i]) : words;
}

export function currentLanguage() {
  return language;
}

/** A whole number as this language writes it. */
export function count(number) {
  return Math.round(number).toLocaleString(language);
}

/** "zh" for any Chinese, else "en"; what was chosen here before comes first. */
export function preferredLanguage() {
  const chosen = remembered("cpmv.language");
  if (chosen in WORDS) return chosen;
  return (navigator.languages?.[0] ?? navigator.language ?? "en").toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Switch the language and rewrite everything marked in the document. */
export function setLanguage(next) {
  language = next in WORDS ? next : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = t(node.dataset.label);
  }
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
}

/** A small choice kept between visits; null where storage is forbidden or empty. */
export function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Then it holds for this visit only.
  }
}
