// Talk to the server the page came from: the model's name, a preview, and streamed answers.
//
// Addresses are relative, so the page also works behind a path of a reverse proxy.

import { t } from "./words.js";

const KEY = "cpmv.key";
const LINE_END = /\r\n|\n|\r/;

/** What the server refused, in words for a person; `status` is the HTTP status, 0 when nothing came. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    memoryKey = key;
  }
}

let memoryKey = "";

function headers() {
  let key = memoryKey;
  try {
    key = sessionStorage.getItem(KEY) ?? memoryKey;
  } catch {
    // Storage is forbidden: the key lives in memory.
  }
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function ask(path, body, signal) {
  let response;
  try {
    const method = body === undefined ? "GET" : "POST";
    response = await fetch(path, { method, headers: headers(), body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(t("offline"), 0);
  }
  if (response.ok) return response;
  if (response.status === 401) throw new ServerError(t("wrong_key"), 401);
  if (response.status === 429) throw new ServerError(t("busy", response.headers.get("Retry-After") ?? 5), 429);
  const told = await response.json().catch(() => null);
  throw new ServerError(told?.error?.message ?? `HTTP ${response.status}`, response.status);
}

/** The name of the model that answers. */
export async function modelName() {
  const listed = await (await ask("v1/models")).json();
  return listed.data[0].id;
}

/** What the model sees of one content part; null where the server has no such endpoint. */
export async function preview(part, media, signal) {
  try {
    const seen = await (await ask("v1/preview", { content: [part], mm_processor_kwargs: media }, signal)).json();
    return seen.parts[0];
  } catch (error) {
    if (error.status === 404 || error.status === 405) return null;
    throw error;
  }
}

/**
 * Stream one answer. onDelta({text, thinking}) is called with each piece; resolves with {finish, usage} at the end.
 * Aborting the signal ends it with an AbortError, and the server stops generating.
 */
export async function answer(body, signal, onDelta) {
  const response = await ask("v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const result = { finish: null, usage: null };
  let held = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    held += value;
    const lines = held.split(LINE_END);
    held = lines.pop(); // the rest of a line that has not arrived whole
    for (const line of lines) ended = readLine(line, result, onDelta) || ended;
  }
  if (!ended && result.finish === null) throw new ServerError(t("broken", t("offline")), 0);
  return result;
}

/** Read one line of the event stream; whether it is the end mark. */
function readLine(line, result, onDelta) {
  if (!line.startsWith("data:")) return false;
  const data = line.slice(5).trim();
  if (data === "[DONE]") return true;
  const chunk = JSON.parse(data);
  if (chunk.error) throw new ServerError(t("broken", chunk.error.message), chunk.error.code ?? 500);
  if (chunk.usage) result.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  const text = choice.delta?.content ?? "";
  const thinking = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
  if (text || thinking) onDelta({ text, thinking });
  result.finish = choice.finish_reason ?? result.finish;
  return false;
}
