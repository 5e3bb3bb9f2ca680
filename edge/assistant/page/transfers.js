// Conversations taken over from another program, and all of them taken out.

import * as api from "./api.js";
import { save } from "./heading.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);

/** Listen to the two buttons; `took` is called when conversations have come. */
export function listen(took) {
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async () => {
    const [file] = $("import-file").files;
    $("import-file").value = "";
    if (file) await tried(() => take(file, took));
  });
  $("export-all").addEventListener("click", () => tried(async () => save(await api.exportedAll(), "nearfar.json")));
}

async function take(file, took) {
  $("transfer-told").textContent = t("importing");
  const { imported, here, unread } = await api.imported(file);
  $("transfer-told").textContent = t("imported", { n: imported, here, unread });
  await took();
}

async function tried(doing) {
  $("transfer-told").textContent = "";
  try {
    await doing();
  } catch (error) {
    $("transfer-told").textContent = error.message || t("gone");
  }
}
