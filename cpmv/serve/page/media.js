// Files: what kind each is, how it goes to the server, and a small picture of it for the page.

import { el, icon } from "./dom.js";
import { t } from "./words.js";

const MAX_BYTES = 200e6; // base64 in a JSON body takes a third more; beyond this a browser tab runs out of memory
const BY_NAME = {
  pdf: "application/pdf", mkv: "video/x-matroska", mp4: "video/mp4", mov: "video/quicktime", webm: "video/webm",
  avi: "video/x-msvideo", png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", webp: "image/webp", gif: "image/gif",
  bmp: "image/bmp", tif: "image/tiff", tiff: "image/tiff",
};

/** A record {id, name, type, kind, blob} of a File; throws an Error with words for a person. */
export function describeFile(file) {
  const type = file.type || BY_NAME[file.name.split(".").pop().toLowerCase()] || "";
  const kind = kindOf(type);
  if (!kind) throw new Error(t("unreadable", file.name));
  if (file.size > MAX_BYTES) {
    throw new Error(t("too_large", file.name, Math.ceil(file.size / 1e6), Math.round(MAX_BYTES / 1e6)));
  }
  const name = file.name || t({ image: "picture", video: "video", pdf: "document" }[kind]);
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, name, type, kind, blob: file };
}

function kindOf(type) {
  if (type === "application/pdf") return "pdf";
  if (type === "image/svg+xml") return null; // the model's side opens pixels only
  if (type.startsWith("image/")) return "image";
  return type.startsWith("video/") ? "video" : null;
}

/** The content part for a file, in the form of the chat completions API. */
export async function contentPart(record) {
  const url = await dataUri(record);
  if (record.type === "image/gif" || record.kind === "pdf") {
    return { type: "file", file: { filename: record.name, file_data: url } }; // told apart by content: a GIF may move
  }
  return record.kind === "video" ? { type: "video_url", video_url: { url } } : { type: "image_url", image_url: { url } };
}

function dataUri(record) {
  const blob = record.blob.type === record.type ? record.blob : new Blob([record.blob], { type: record.type });
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

const urls = new Map(); // file id -> object URL, as long as the page lives

export function objectUrl(record) {
  if (!urls.has(record.id)) urls.set(record.id, URL.createObjectURL(record.blob));
  return urls.get(record.id);
}

export function forgetUrl(id) {
  if (urls.has(id)) URL.revokeObjectURL(urls.get(id));
  urls.delete(id);
}

/** A small picture, silent to a screen reader: the image itself, a video's first frame, or a sheet with the document's name. */
export function thumbnail(record) {
  if (record.kind === "image") {
    const image = el("img", { src: objectUrl(record), alt: "" });
    image.addEventListener("error", () => image.replaceWith(sheet(record, "file"))); // a format this browser cannot show
    return image;
  }
  if (record.kind === "video") {
    const video = el("video", { src: `${objectUrl(record)}#t=0.1`, preload: "metadata", playsinline: true, tabindex: "-1", "aria-hidden": "true" });
    video.muted = true;
    return el("span.poster", {}, video, icon("film"));
  }
  return sheet(record, "file");
}

const sheet = (record, symbol) => el("span.sheet", { "aria-hidden": "true" }, icon(symbol), el("span", {}, record.name));
