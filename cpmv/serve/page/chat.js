// One conversation: its turns, what of them goes to the server, and the answer being streamed.

import { contentPart } from "./media.js";
import { answer } from "./server.js";
import { loadFile, saveChat } from "./store.js";

const SAVE_EVERY_MS = 2000; // while an answer grows, so that a closed tab loses little
const MAX_TITLE = 60; // characters

export function newChat(deep = false) {
  const id = crypto.randomUUID?.() ?? String(Date.now());
  return { id, title: "", updated: Date.now(), deep, media: {}, turns: [] };
}

/** A chat as it comes from the store: an answer that was growing when the tab closed has stopped. */
export function revive(chat) {
  for (const turn of chat.turns) if (turn.status === "running") turn.status = "stopped";
  return chat;
}

export function titleOf(text, records) {
  const line = text.trim().split("\n")[0] || records[0]?.name || "";
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1)}…` : line;
}

/** The messages for the turns before `until`; an answer without words is left out. */
export async function messagesBefore(chat, until) {
  const messages = [];
  for (const turn of chat.turns) {
    if (turn === until) break;
    if (turn.role === "user") messages.push({ role: "user", content: await userContent(turn) });
    else if (turn.text) messages.push({ role: "assistant", content: turn.text });
  }
  return messages;
}

async function userContent(turn) {
  const parts = [];
  for (const id of turn.files ?? []) {
    const record = await loadFile(id);
    if (record) parts.push(await contentPart(record));
  }
  if (turn.text) parts.push({ type: "text", text: turn.text });
  return parts;
}

/** Answer into `turn`, the chat's last. onGrow() after each piece; never throws: what went wrong is in turn.error. */
export async function runAnswer(chat, turn, model, signal, onGrow) {
  Object.assign(turn, { text: "", thinking: "", status: "running", error: null, usage: null });
  const clock = { began: 0, answered: 0, saved: performance.now() };
  const grow = (piece) => {
    const now = performance.now();
    clock.began ||= now;
    turn.thinking += piece.thinking;
    turn.text += piece.text;
    if (piece.text && !clock.answered) {
      clock.answered = now;
      if (turn.thinking) turn.thinkingSeconds = (now - clock.began) / 1000;
    }
    if (now - clock.saved > SAVE_EVERY_MS) {
      clock.saved = now;
      saveChat(chat);
    }
    onGrow();
  };
  try {
    const body = {
      model,
      messages: await messagesBefore(chat, turn),
      chat_template_kwargs: { enable_thinking: chat.deep },
      ...(Object.keys(chat.media).length ? { mm_processor_kwargs: chat.media } : {}),
    };
    const { finish, usage } = await answer(body, signal, grow);
    turn.usage = usage;
    turn.status = finish === "length" ? "length" : "done";
  } catch (error) {
    turn.status = signal.aborted ? "stopped" : "failed";
    turn.error = signal.aborted ? null : error.message;
    turn.errorStatus = error.status;
  }
  turn.seconds = clock.began ? (performance.now() - clock.began) / 1000 : 0;
  chat.updated = Date.now();
}
