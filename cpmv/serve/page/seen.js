// The dialog "what the model sees": the slice grid over a picture or page, a video's frames in their packages, and
// the settings that change it.

import { seenOf } from "./attachments.js";
import { byId, el } from "./dom.js";
import { objectUrl } from "./media.js";
import { count, t } from "./words.js";

const CHOICES = {
  max_slice_nums: { label: "detail", values: [1, 2, 4, 6, 9] },
  fps: { label: "rate", values: [0.2, 0.5, 1, 2, 3, 5, 10] },
  packing: { label: "packing", values: [1, 2, 3, 4, 5, 6] },
};

export class SeenDialog {
  constructor() {
    this.dialog = byId("seen");
    byId("seen-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  /** Show a file under settings; onChange(media), when given, lets the reader change them. */
  async open(record, media, onChange = null) {
    this.record = record;
    byId("seen-title").textContent = t("see_of", record.name);
    this.controls(record.kind, media, onChange);
    if (!this.dialog.open) this.dialog.showModal();
    const seen = await this.draw(media);
    if (seen && seen.type !== record.kind) this.controls(seen.type, media, onChange); // a GIF that moves is a video
  }

  /** Draw what is seen of the present file, and return it; null when there is nothing to draw. */
  async draw(media) {
    const body = byId("seen-body");
    const summary = byId("seen-summary");
    const record = this.record;
    summary.textContent = t("looking");
    body.classList.add("waiting");
    try {
      const seen = await seenOf(record, media);
      if (record !== this.record) return null;
      summary.textContent = seen ? t("tokens", count(seen.tokens)) : t("no_preview");
      body.replaceChildren(...(seen ? views(record, seen) : []));
      return seen;
    } catch (error) {
      summary.textContent = error.message;
      body.replaceChildren();
      return null;
    } finally {
      body.classList.remove("waiting");
    }
  }

  controls(kind, media, onChange) {
    const names = { image: ["max_slice_nums"], pdf: ["max_slice_nums"], video: ["fps", "packing"] }[kind];
    const kept = { ...media };
    const fields = names.map((name) => {
      const { label, values } = CHOICES[name];
      const option = (value, words) => el("option", { value, selected: String(kept[name] ?? "") === String(value) }, words);
      const change = (event) => {
        if (event.target.value === "") delete kept[name];
        else kept[name] = Number(event.target.value);
        onChange({ ...kept });
        this.draw({ ...kept });
      };
      const options = [option("", t("auto")), ...values.map((value) => option(value, String(value)))];
      return el("label.field", {}, el("span", {}, t(label)), el("select", { change }, ...options));
    });
    byId("seen-controls").hidden = !onChange;
    byId("seen-controls").replaceChildren(...(onChange ? fields : []));
  }
}

function views(record, seen) {
  if (seen.type === "video") return videoViews(seen);
  if (seen.type === "pdf") return seen.pages.map((page, i) => picture(page.thumbnail, page, t("page", i + 1)));
  return [picture(objectUrl(record), seen, record.name)];
}

/** A picture with its slices drawn over it, and in words for those who do not see it. */
function picture(source, seen, name) {
  const { columns, rows } = seen.grid ?? { columns: 1, rows: 1 };
  const isSliced = seen.grid !== null;
  const words = isSliced
    ? t("sliced", columns, rows, ...seen.slice, ...seen.overview)
    : t("not_sliced", ...seen.overview, count(seen.tokens));
  const grid = el("div.grid", { "aria-hidden": "true" });
  grid.style.setProperty("--columns", columns);
  grid.style.setProperty("--rows", rows);
  if (isSliced) for (let i = 1; i <= columns * rows; i += 1) grid.append(el("span", {}, el("b", {}, String(i))));
  const image = source ? el("img", { src: source, alt: `${name}: ${words}` }) : el("span.sheet", {}, name);
  const facts = [el("strong", {}, name), el("span", {}, t("size", ...seen.size)), el("span", {}, words)];
  if (isSliced) facts.push(el("span", {}, `${t("tokens", count(seen.tokens))}, ${t("each", Math.round(seen.tokens / (columns * rows + 1)))}`));
  return el("figure.seen-picture", {}, el("div.framed", {}, image, isSliced ? grid : null), el("figcaption", {}, ...facts));
}

function videoViews(seen) {
  const length = t("video_line", seen.duration_s.toFixed(1), ...seen.size);
  const line = `${length} · ${t("frames_in", seen.num_frames, seen.packages.length)}`;
  return [el("p.hint", {}, line), el("ol.packages", {}, ...seen.packages.map(packageView))];
}

function packageView(group, index) {
  const times = group.frames.map((frame) => clock(frame.time_s));
  const span = times.length > 1 ? el("span", {}, `${times[0]} – ${times.at(-1)}`) : null;
  const frames = group.frames.map(({ thumbnail }, i) => {
    const image = thumbnail ? el("img", { src: thumbnail, alt: "" }) : el("span.blank");
    return el("li", {}, image, el("time", {}, times[i]));
  });
  const head = el("p", {}, el("strong", {}, t("package", index + 1)), span, el("span", {}, t("tokens_short", group.tokens)));
  const node = el("li.package", {}, head, el("ol.frames", {}, ...frames));
  node.style.setProperty("--frames", frames.length);
  return node;
}

/** 75.3 -> "1:15.3" */
function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}
