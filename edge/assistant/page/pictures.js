// Pictures with a question: made small, shown, and turned into text for the way to the server.

import { t } from "./words.js";

const MOST_PIXELS = 1600; // of the longer side; more tells a model little
const MOST_BYTES = 700_000; // of one, so that some go with one question
const MOST = 4; // with one question
const PLAIN = ["image/jpeg", "image/png", "image/webp"];

export const isPicture = (file) => file.type.startsWith("image/") && file.type !== "image/svg+xml";

/** Return the pictures among files, as far as they can be read; `fail` is told of the others. */
export async function taken(files, there, fail) {
  const found = [];
  for (const file of files) {
    if (there + found.length >= MOST) fail(t("too_many_pictures", { n: MOST }));
    else found.push(...(await small(file).catch(() => fail(t("not_picture", { name: file.name })) ?? [])));
  }
  return found;
}

/** Return a picture that is not too large, upright; drawing it anew leaves what a camera wrote behind. */
async function small(file) {
  const drawn = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, MOST_PIXELS / Math.max(drawn.width, drawn.height));
  if (scale === 1 && file.size <= MOST_BYTES && PLAIN.includes(file.type)) return [shown(file)];
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(drawn.width * scale)), Math.max(1, Math.round(drawn.height * scale)));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // behind what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(drawn, 0, 0, canvas.width, canvas.height);
  for (const quality of [0.85, 0.6, 0.3]) {
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
    if (blob.size <= MOST_BYTES) return [shown(blob)];
  }
  throw new Error("too large");
}

/** A picture as the page keeps it: its bytes and the address at which it is drawn. */
export const shown = (blob) => ({ blob, url: URL.createObjectURL(blob) });

/** Return the element of a picture. */
export function drawn(url) {
  const image = document.createElement("img");
  image.className = "picture";
  image.alt = t("picture");
  image.src = url;
  return image;
}

/** Return an element for a picture of the server's, which comes when it is there. */
export function fetched(getting) {
  const image = drawn("");
  image.removeAttribute("src");
  getting.then((blob) => (image.src = URL.createObjectURL(blob))).catch(() => image.remove());
  return image;
}

/** Return the bytes of a picture as base64. */
export async function encoded({ blob }) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}
