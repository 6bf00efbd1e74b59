// The tray above the question: files that will go with it, each with what it will cost in visual tokens.

import { byId, el, iconButton } from "./dom.js";
import { contentPart, describeFile, forgetUrl, thumbnail } from "./media.js";
import { preview } from "./server.js";
import { count, t } from "./words.js";

const seenCache = new Map(); // file id and settings -> promise of a preview

/** What the model sees of a file under these settings, asked once. */
export function seenOf(record, media) {
  const key = `${record.id} ${JSON.stringify(media)}`;
  if (!seenCache.has(key)) {
    const asked = contentPart(record).then((part) => preview(part, media));
    asked.catch(() => seenCache.delete(key)); // so that it can be asked again
    seenCache.set(key, asked);
  }
  return seenCache.get(key);
}

export class Attachments {
  /** media(): the chat's settings. onChange(): files came or went. onSee(record): the reader asks what is seen. */
  constructor({ media, onChange, onSee, onProblem }) {
    Object.assign(this, { media, onChange, onSee, onProblem });
    this.records = [];
    this.tokens = new Map();
  }

  add(files) {
    for (const file of files) {
      try {
        this.records.push(describeFile(file));
      } catch (error) {
        this.onProblem(error.message);
      }
    }
    this.draw();
  }

  remove(record) {
    this.records = this.records.filter((other) => other !== record);
    forgetUrl(record.id);
    this.draw();
    byId("question").focus();
  }

  /** Empty the tray and return what was in it. */
  take() {
    const taken = this.records;
    this.records = [];
    this.draw();
    return taken;
  }

  put(records) {
    this.records = records;
    this.draw();
  }

  draw() {
    const tray = byId("tray");
    tray.hidden = !this.records.length;
    tray.replaceChildren(...this.records.map((record) => this.chip(record)));
    this.tokens.clear();
    this.meter();
    this.onChange();
  }

  chip(record) {
    const badge = el("span.badge", {}, t("looking"));
    const label = t("see_of", record.name);
    const inside = [el("span.unseen", {}, label), thumbnail(record), badge]; // the label and the badge are its name
    const see = el("button.thumb", { type: "button", title: label, click: () => this.onSee(record) }, ...inside);
    const remove = iconButton("close", t("remove", record.name), () => this.remove(record));
    this.weigh(record, badge);
    return el("div.chip", { role: "listitem" }, see, remove);
  }

  async weigh(record, badge) {
    try {
      const seen = await seenOf(record, this.media());
      if (!seen) {
        badge.remove();
        return;
      }
      badge.textContent = t("tokens_short", count(seen.tokens));
      this.tokens.set(record.id, seen.tokens);
      this.meter();
    } catch (error) {
      badge.textContent = "!";
      badge.classList.add("bad");
      badge.title = error.message;
      if (error.status) this.onProblem(error.message);
    }
  }

  meter() {
    let sum = 0;
    for (const record of this.records) sum += this.tokens.get(record.id) ?? 0;
    byId("meter").textContent = sum ? t("tokens", count(sum)) : "";
  }
}
