// The sidebar: conversations kept in this browser, newest first, by day.

import { byId, el, iconButton } from "./dom.js";
import { t } from "./words.js";

const DAY_MS = 86_400_000;

/** Draw the list. actions: {onOpen(chat), onDelete(chat)}. */
export function drawHistory(chats, currentId, actions) {
  const groups = new Map();
  for (const chat of chats) {
    const key = dayOf(chat.updated);
    groups.set(key, [...(groups.get(key) ?? []), chat]);
  }
  const sections = [...groups].map(([key, members], i) => {
    const id = `history-${i}`;
    const items = members.map((chat) => entry(chat, chat.id === currentId, actions));
    return el("section", { "aria-labelledby": id }, el("h2", { id }, t(key)), el("ul", {}, ...items));
  });
  byId("history").replaceChildren(...sections);
}

function entry(chat, isCurrent, actions) {
  const title = chat.title || t("new_chat");
  const open = el("button.row", { type: "button", "aria-current": isCurrent ? "page" : null, title, click: () => actions.onOpen(chat) }, el("span", {}, title));
  return el("li", {}, open, iconButton("trash", t("delete_chat", title), () => actions.onDelete(chat)));
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "today";
  return time >= midnight - DAY_MS ? "yesterday" : "earlier";
}
