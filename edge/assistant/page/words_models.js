// The words of the managers: near models, far ones, and conversations; in English and Chinese.

export const WORDS = {
  en: {
    models: "Models", models_free: "{size} of memory are free now.", models_here: "On this device", models_pulls: "Downloads",
    models_adopt: "Use a file of this machine", models_path: "Path of a GGUF file", models_short: "Short name, if you want one", models_add: "Add",
    models_search: "Search the Hub", models_hub: "What you look for is sent to {hub}, and nothing else.", models_words: "Model, maker or task",
    models_worth: "Worth fetching", models_use: "Use near", models_in_use: "in use", models_fits: "fits", models_misfit: "does not fit now", models_remove: "Remove", models_forget: "Forget",
    models_fetch: "Fetch", models_anyway: "Fetch all the same", models_stop: "Stop", models_clear: "Clear", models_files: "Files", models_downloads: "{n} downloads", models_gated: "its owner must let you in",
    models_remove_sure: "Delete the files of “{name}”?", models_about: "about {size}, {licence}, {about}",
    pull_running: "{done} of {total}", pull_begins: "asking the Hub", pull_stopping: "stopping", pull_stopped: "stopped; it goes on from here", pull_done: "here", pull_failed: "failed",
    clouds: "Far models", clouds_none: "None is set up. The near model answers alone.", clouds_test: "Test", clouds_add: "Add one",
    clouds_hint: "On its machine, “nearfar link invite NAME tcp://HOST:PORT” prints an invite. Or give the address of an OpenAI-compatible server, which takes the place of the others.",
    clouds_line: "Invite, tcp://HOST:PORT, or the base URL of a server over HTTP", clouds_key: "Its public key; not needed with an invite, or on this machine", clouds_model: "Model; the first that it lists unless you name one", clouds_secret: "API key",
    clouds_paired: "Paired with this machine", clouds_own: "This device's own key: {key}", clouds_drop_sure: "Drop {name}? To come back you may need a new invite.",
    clouds_measured: "{model}; round trip {ms} ms, {waiting} waiting", clouds_answers: "{model} answers", clouds_silent: "no ping was answered in time", clouds_testing: "testing", import: "Take over conversations", export_all: "Export all", importing: "Reading the file", imported: "{n} conversations were taken over, {here} were here already, {unread} could not be read.", fetch_model: "Fetch a model", add_cloud: "Add a far model",
  },
  zh: {
    models: "模型", models_free: "现有 {size} 空闲内存。", models_here: "本设备上", models_pulls: "下载",
    models_adopt: "使用本机的文件", models_path: "GGUF 文件的路径", models_short: "短名称（可不填）", models_add: "添加",
    models_search: "搜索 Hub", models_hub: "只会把您搜索的词发送到 {hub}。", models_words: "模型、作者或任务",
    models_worth: "值得下载", models_use: "用作本地模型", models_in_use: "使用中", models_fits: "放得下", models_misfit: "现在放不下", models_remove: "删除", models_forget: "忘记",
    models_fetch: "下载", models_anyway: "仍然下载", models_stop: "停止", models_clear: "清除", models_files: "文件", models_downloads: "{n} 次下载", models_gated: "需要作者许可",
    models_remove_sure: "删除“{name}”的文件吗？", models_about: "约 {size}，{licence}，{about}",
    pull_running: "{done} / {total}", pull_begins: "正在询问 Hub", pull_stopping: "正在停止", pull_stopped: "已停止；以后从这里继续", pull_done: "已就绪", pull_failed: "失败",
    clouds: "云端模型", clouds_none: "尚未设置，由本地模型单独回答。", clouds_test: "测试", clouds_add: "添加",
    clouds_hint: "在云端机器上运行 “nearfar link invite 名称 tcp://主机:端口” 会打印邀请。也可以填写兼容 OpenAI 的服务器地址，它会取代其他云端。",
    clouds_line: "邀请、tcp://主机:端口，或 HTTP 服务器的基础地址", clouds_key: "它的公钥；有邀请或在本机时不需要", clouds_model: "模型；不填则用它列出的第一个", clouds_secret: "API 密钥",
    clouds_paired: "与本机配对的设备", clouds_own: "本设备的公钥：{key}", clouds_drop_sure: "移除 {name} 吗？要恢复可能需要新的邀请。",
    clouds_measured: "{model}；往返 {ms} 毫秒，{waiting} 个在等待", clouds_answers: "{model} 有应答", clouds_silent: "没有及时收到应答", clouds_testing: "正在测试", import: "导入对话", export_all: "全部导出", importing: "正在读取文件", imported: "已导入 {n} 个对话，{here} 个已存在，{unread} 个无法读取。", fetch_model: "下载模型", add_cloud: "添加云端",
  },
};
