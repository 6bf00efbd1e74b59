// The conversation as it is read: one article a turn, the answer growing in place as it arrives.

import { el, icon, iconButton } from "./dom.js";
import { render } from "./markdown.js";
import { objectUrl, thumbnail } from "./media.js";
import { loadFile } from "./store.js";
import { count, t } from "./words.js";

/** A question with its files. actions: {onSee(record), onEdit(turn)}. */
export function userTurn(turn, actions) {
  const files = el("div.files");
  for (const id of turn.files ?? []) {
    const place = el("span.thumb");
    files.append(place);
    showFile(id, place, actions);
  }
  const edit = iconButton("edit", t("edit"), () => actions.onEdit(turn));
  const words = turn.text ? el("div.bubble", {}, turn.text) : null;
  return el("article.turn.user", { "aria-label": t("you") }, turn.files?.length ? files : null, words, el("div.actions", {}, edit));
}

async function showFile(id, place, actions) {
  const record = await loadFile(id).catch(() => undefined);
  if (!record) return;
  const label = t("see_of", record.name);
  const inside = [el("span.unseen", {}, label), thumbnail(record), el("span.badge.eye", {}, icon("eye"))];
  const see = el("button.thumb", { type: "button", title: label, click: () => actions.onSee(record) }, ...inside);
  if (record.kind !== "video") {
    place.replaceWith(see);
    return;
  }
  const player = el("video.player", { src: objectUrl(record), controls: true, preload: "auto", playsinline: true, "aria-label": record.name });
  place.replaceWith(el("div.clip", {}, player, iconButton("eye", label, () => actions.onSee(record))));
}

/** An answer: thinking folded above, Markdown, what ended it, what it took. */
export class AnswerView {
  constructor(turn, actions) {
    this.turn = turn;
    this.thinkingText = el("div.thinking-text");
    this.thinkingLabel = el("span");
    this.thinking = el("details.thinking", {}, el("summary", {}, icon("chevron"), this.thinkingLabel), this.thinkingText);
    this.text = el("div.markdown");
    this.waiting = el("div.waiting-dots", { "aria-hidden": "true" }, el("i"), el("i"), el("i"));
    this.note = el("p.note");
    this.facts = el("span.facts");
    const copy = iconButton("copy", t("copy"), () => this.copy(copy));
    const retry = iconButton("retry", t("retry"), () => actions.onRetry(turn));
    this.actions = el("div.actions", {}, copy, retry, this.facts);
    const parts = [this.thinking, this.text, this.waiting, this.note, this.actions];
    this.node = el("article.turn.model", { "aria-label": t("model") }, ...parts);
    this.frame = 0;
    this.draw();
  }

  /** Draw soon: many pieces may arrive between two frames of the screen. */
  drawSoon(after) {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
      after();
    });
  }

  draw() {
    const { turn } = this;
    const running = turn.status === "running";
    this.node.setAttribute("aria-busy", String(running));
    this.drawThinking(running);
    render(this.text, turn.text);
    this.text.classList.toggle("growing", running && Boolean(turn.text));
    this.waiting.hidden = !running || Boolean(turn.text || turn.thinking);
    this.note.textContent = ending(turn);
    this.note.classList.toggle("bad", Boolean(turn.error));
    this.note.hidden = !this.note.textContent;
    this.actions.hidden = running;
    this.facts.textContent = facts(turn);
  }

  drawThinking(running) {
    const { turn } = this;
    this.thinking.hidden = !turn.thinking;
    this.thinking.classList.toggle("running", running && !turn.text);
    const done = turn.thinkingSeconds === undefined ? t("thought_plain") : t("thought", count(Math.max(1, turn.thinkingSeconds)));
    this.thinkingLabel.textContent = running && !turn.text ? t("thinking") : done;
    this.thinkingText.textContent = turn.thinking ?? "";
  }

  async copy(button) {
    await navigator.clipboard.writeText(this.turn.text);
    button.replaceChildren(icon("done"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  }
}

function ending(turn) {
  if (turn.error) return turn.error;
  if (turn.status === "stopped") return t("stopped");
  if (turn.status === "length") return t("cut");
  return turn.status === "done" && !turn.text ? t("nothing") : "";
}

function facts(turn) {
  const usage = turn.usage;
  if (!usage) return "";
  const details = usage.prompt_tokens_details ?? {};
  const parts = [t("read", count(usage.prompt_tokens))];
  if (details.visual_tokens) parts.push(t("visual", count(details.visual_tokens)));
  if (details.cached_tokens) parts.push(t("cached", count(details.cached_tokens)));
  parts.push(t("written", count(usage.completion_tokens)));
  if (turn.seconds > 0.2 && usage.completion_tokens > 4) parts.push(t("per_second", count(usage.completion_tokens / turn.seconds)));
  return parts.join(" · ");
}
