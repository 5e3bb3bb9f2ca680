// What the page says, in English and Chinese.

import { WORDS as models } from "./words_models.js";

const WORDS = {
  en: {
    skip: "Skip to the question", conversations: "Conversations", thread: "Conversation", close: "Close",
    new: "New conversation", search: "Search", settings: "Settings", rename: "Rename", export: "Export",
    delete: "Delete", private: "Private", ask: "Ask something", attach: "Attach documents or pictures", send: "Send",
    stop: "Stop", model: "Model", window: "Window", kv: "KV cache", language: "Language", done: "Done",
    window_hint: "How many of the newest tokens stay in memory when a conversation grows long.",
    kv_hint: "Fewer bits hold a longer conversation in the same memory.",
    window_all: "all that fit", window_refuse: "refuse longer ones", kv_auto: "as memory allows",
    tokens: "{n} tokens", consent_title: "May this leave the device?",
    consent_text: "The near model is not sure enough, or you asked for the far one. These {n} bytes would go to your far model ({to}):",
    consent_leaves: "The text that would leave", consent_earlier: "{n} earlier turns go with it", consent_edit: "Let me change it first",
    consent_stays: "{n} turns of this conversation stay here.", consent_blocked: "Your rules keep this text here, whatever you choose.",
    kind_count: "{kind}: {n} of {of} replaced.", kind_secret: "Secrets", kind_card: "Card numbers", kind_iban: "Bank accounts", kind_national_id: "National ids",
    kind_email: "E-mail addresses", kind_phone: "Telephone numbers", kind_name: "Names", kind_address: "Postal addresses", kind_ip: "IP addresses", kind_path: "Paths", kind_person: "Persons", kind_place: "Places",
    replaced: "{n} replaced", preset: "Preset", preset_edit: "Change", preset_new: "New", preset_none: "none", preset_any: "as it is", preset_name: "Name", preset_system: "System prompt",
    preset_temperature: "Temperature", preset_top_p: "Top-p", preset_length: "Longest answer, tokens", preset_private: "Nothing of it leaves", preset_save: "Save and use",
    preset_hint: "What is left empty stays as the settings and the model have it. A preset holds from the next conversation on.", theme: "Theme", theme_auto: "as the system", theme_light: "light", theme_dark: "dark",
    pin: "Pin to the top", pinned: "Pinned", ledger: "What left", ledger_find: "Find: a place, a reason, a conversation", ledger_kind: "Which", ledger_all: "All", ledger_replaced: "With values replaced",
    ledger_failed: "Failed", ledger_leaving: "Under way, or cut off", ledger_abandoned: "Left before its end", ledger_at_most: "at most {n} bytes", ledger_none: "Nothing has left this device.",
    ledger_totals: "{bytes} bytes left in {n} attempts, ever.",
    consent_once: "This message may", consent_conversation: "All of this conversation may",
    consent_always: "Always, and do not ask again", consent_no: "No, answer near",
    consent_never: "Never, and do not ask again", copy: "Copy", copied: "Copied", retry_near: "Retry near",
    retry_cloud: "Retry far", better: "Better answer ready", near: "near", far: "far", why: "Why?", sent: "{n} bytes sent",
    nothing_sent: "nothing sent", not_counted: "bytes not counted", may_have_left: "text may have left", stopped: "stopped", interrupted: "cut off when nearfar ended",
    failed: "failed", welcome: "What would you like to know?",
    welcome_alone: "Answered on this device. Nothing leaves it.",
    welcome_private: "Private: answered on this device, and nothing leaves it.",
    welcome_asks: "Answered on this device. Your far model is asked when that pays, and only if you allow it each time.",
    welcome_far: "Answered on this device. Your far model is asked when that pays.",
    welcome_away: "Answered on this device. Your far model is out of reach just now.",
    about_demonstration: "{name} ({size} parameters), a demonstration: a little arithmetic, units, dates and facts, in English. For real questions:",
    about_model: "{name}, {size} parameters", about_no_cloud: "none is set up, and none is needed.",
    about_offline: "closed for as long as nearfar runs offline",
    key_send: "send", key_line: "new line", key_stop: "stop", key_search: "search", key_new: "new conversation",
    edit: "Edit", latest: "To the newest words", writing: "thinking", reading: "reading {n} of {of} tokens", reading_far: "far: reading {n} of {of} tokens", thought: "What was thought first", thought_for: "Thought for {n} s", speed: "{n} tokens/s",
    private_on: "Private: nothing leaves this device. The link to the far model is closed.",
    private_off: "Private is off: you are asked before anything leaves.",
    gone: "The assistant is not running. Start it with “nearfar assistant”; this page will come back by itself.",
    locked: "Open the link that “nearfar assistant” printed: it holds the key to your conversations.",
    delete_sure: "Delete “{name}”?", deleted: "Deleted “{name}”. It is erased after ten minutes.", undo: "Undo", go_on: "Go on", versions: "Versions", version_before: "The version before", version_after: "The version after", editing: "Your question in other words; the first stays as a version. Esc leaves it as it was.", cancel: "Cancel", rename_title: "Title",
    export_title: "Export this conversation", nothing_found: "Nothing was found", none_yet: "Nothing here yet",
    learn: "May nearfar learn from far answers when to ask? It keeps numbers on this device, no texts, and asks one sure answer in ten far, too.",
    learn_on: "Yes", learn_off: "No", learning: "Learning from far answers", learning_ask: "ask once", learning_on: "on", learning_off: "off",
    learning_hint: "Numbers of answers are kept on this device, no texts; “nearfar policy forget” deletes them.",
    memory: "Memory", link: "Link", parameters: "Parameters", context: "Context", seam: "not sure enough; the far model answers instead",
    you: "You", answering: "nearfar is answering", answered: "nearfar has answered", untitled: "New conversation",
    today: "Today", yesterday: "Yesterday", earlier: "Earlier",
    searched: "searched for each question", tool: "Tool", called: "Called {shown}", call_sure: "May the model call {shown} of “{server}”?", call_once: "This call", call_always: "This tool, in all of this conversation", call_no: "No, answer without it",
    picture: "Picture", not_picture: "{name} cannot be read as a picture", too_many_pictures: "{n} pictures go with one question", consent_pictures: "{n} pictures go with it; nothing in a picture is replaced.",
    example_1: "What is 17 + 25?", example_2: "What is the capital of France?", example_3: "Sort these numbers: 55, 93, 4, 68",
  },
  zh: {
    skip: "跳到输入框", conversations: "对话列表", thread: "对话", close: "关闭",
    new: "新对话", search: "搜索", settings: "设置", rename: "重命名", export: "导出",
    delete: "删除", private: "私密", ask: "请输入问题", attach: "附加文档或图片", send: "发送",
    stop: "停止", model: "模型", window: "窗口", kv: "KV 缓存", language: "语言", done: "完成",
    window_hint: "对话变长时，内存中保留多少最新的词元。",
    kv_hint: "位数越少，同样的内存能容纳越长的对话。",
    window_all: "尽可能多", window_refuse: "拒绝更长的对话", kv_auto: "按内存选择",
    tokens: "{n} 个词元", consent_title: "允许内容离开本设备吗？",
    consent_text: "本地模型不够确定，或者您要求使用云端。以下 {n} 字节将发送到您的云端（{to}）：",
    consent_leaves: "将要离开的文本", consent_earlier: "同时发送之前的 {n} 轮", consent_edit: "让我先修改",
    consent_stays: "此对话有 {n} 轮留在本地。", consent_blocked: "无论如何选择，您的规则都会把此文本留在本地。",
    kind_count: "{kind}：{of} 处中替换了 {n} 处。", kind_secret: "密钥", kind_card: "银行卡号", kind_iban: "银行账户", kind_national_id: "身份证号",
    kind_email: "电子邮件地址", kind_phone: "电话号码", kind_name: "姓名", kind_address: "邮寄地址", kind_ip: "IP 地址", kind_path: "路径", kind_person: "人名", kind_place: "地名",
    replaced: "已替换 {n} 处", preset: "预设", preset_edit: "修改", preset_new: "新建", preset_none: "无", preset_any: "不变", preset_name: "名称", preset_system: "系统提示词",
    preset_temperature: "温度", preset_top_p: "核采样概率", preset_length: "回答的最大长度（词元）", preset_private: "内容不离开本设备", preset_save: "保存并使用",
    preset_hint: "留空的项沿用设置和模型的值。预设从下一个对话起生效。", theme: "主题", theme_auto: "跟随系统", theme_light: "浅色", theme_dark: "深色",
    pin: "置顶", pinned: "已置顶", ledger: "离开的内容", ledger_find: "查找：地址、原因、对话", ledger_kind: "范围", ledger_all: "全部", ledger_replaced: "有替换的",
    ledger_failed: "失败的", ledger_leaving: "进行中或已中断", ledger_abandoned: "未读完", ledger_at_most: "最多 {n} 字节", ledger_none: "没有任何内容离开过本设备。",
    ledger_totals: "共 {n} 次，{bytes} 字节离开过本设备。",
    consent_once: "允许这一条", consent_conversation: "允许整个对话",
    consent_always: "始终允许，不再询问", consent_no: "不允许，在本地回答",
    consent_never: "永不允许，不再询问", copy: "复制", copied: "已复制", retry_near: "在本地重试",
    retry_cloud: "在云端重试", better: "有更好的回答", near: "本地", far: "云端", why: "原因", sent: "已发送 {n} 字节",
    nothing_sent: "没有发送任何内容", not_counted: "字节数未统计", may_have_left: "文本可能已发出", stopped: "已停止", interrupted: "nearfar 退出时中断",
    failed: "失败", welcome: "想了解什么？",
    welcome_alone: "回答在本设备上生成，任何内容都不会离开。",
    welcome_private: "私密模式：回答在本设备上生成，任何内容都不会离开。",
    welcome_asks: "回答在本设备上生成。值得时才询问您的云端，而且每次都先征得您的同意。",
    welcome_far: "回答在本设备上生成。值得时才询问您的云端。",
    welcome_away: "回答在本设备上生成。您的云端现在无法连接。",
    about_demonstration: "{name}（{size} 参数），演示模型：会一点英文的算术、单位、日期和常识。要回答真正的问题：",
    about_model: "{name}，{size} 参数", about_no_cloud: "尚未设置，也并非必需。",
    about_offline: "nearfar 以离线方式运行期间已关闭",
    key_send: "发送", key_line: "换行", key_stop: "停止", key_search: "搜索", key_new: "新对话",
    edit: "编辑", latest: "回到最新内容", writing: "思考中", reading: "已读取 {n} / {of} 个词元", reading_far: "云端：已读取 {n} / {of} 个词元", thought: "先前的思考", thought_for: "思考了 {n} 秒", speed: "{n} 词元/秒",
    private_on: "私密模式：任何内容都不会离开本设备，与云端的连接已关闭。",
    private_off: "私密模式已关闭：内容离开之前会先询问您。",
    gone: "助手没有运行。请用 “nearfar assistant” 启动，页面会自动恢复。",
    locked: "请打开 “nearfar assistant” 打印的链接：其中有访问对话的密钥。",
    delete_sure: "删除“{name}”吗？", deleted: "已删除“{name}”，十分钟后彻底清除。", undo: "撤销", go_on: "继续", versions: "版本", version_before: "上一个版本", version_after: "下一个版本", editing: "修改您的问题；原来的问题会作为一个版本保留。按退出键保持不变。", cancel: "取消", rename_title: "标题",
    export_title: "导出这个对话", nothing_found: "没有找到", none_yet: "还没有对话",
    learn: "允许 nearfar 从云端的回答中学习何时询问云端吗？它只在本设备上保存数字，不保存文本；每十个有把握的回答中会有一个也询问云端。",
    learn_on: "允许", learn_off: "不允许", learning: "从云端的回答中学习", learning_ask: "询问一次", learning_on: "开", learning_off: "关",
    learning_hint: "只在本设备上保存回答的数字，不保存文本；“nearfar policy forget” 会删除它们。",
    memory: "内存", link: "连接", parameters: "参数", context: "上下文", seam: "不够确定，改由云端回答",
    you: "您", answering: "nearfar 正在回答", answered: "nearfar 已回答", untitled: "新对话",
    today: "今天", yesterday: "昨天", earlier: "更早",
    searched: "每个问题都会检索", tool: "工具", called: "已调用 {shown}", call_sure: "允许模型调用“{server}”的 {shown} 吗？", call_once: "允许这一次", call_always: "此对话中始终允许此工具", call_no: "不允许，直接回答",
    picture: "图片", not_picture: "无法读取图片 {name}", too_many_pictures: "一个问题最多附 {n} 张图片", consent_pictures: "同时发送 {n} 张图片；图片中的内容不会被替换。",
    example_1: "What is 17 + 25?", example_2: "What is the capital of France?", example_3: "Sort these numbers: 55, 93, 4, 68",
  },
};

const KEY = "nearfar-language";
let language = localStorage.getItem(KEY) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const current = () => language;

export function choose(chosen) {
  language = chosen;
  localStorage.setItem(KEY, chosen);
  apply();
}

/** Return the words for a key, with {name} filled in. */
export function t(key, values = {}) {
  return (WORDS[language][key] ?? models[language][key]).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Put the words into every element that names a key. */
export function apply(root = document) {
  document.documentElement.lang = language;
  for (const each of root.querySelectorAll("[data-t]")) each.textContent = t(each.dataset.t);
  for (const each of root.querySelectorAll("[data-t-label]")) each.setAttribute("aria-label", t(each.dataset.tLabel));
  for (const each of root.querySelectorAll("[data-t-title]")) each.title = t(each.dataset.tTitle);
  for (const each of root.querySelectorAll("[data-t-placeholder]")) each.placeholder = t(each.dataset.tPlaceholder);
}
