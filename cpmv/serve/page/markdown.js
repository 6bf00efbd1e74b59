// Markdown to DOM nodes, for text that a model wrote and nobody has checked.
//
// Text goes into text nodes and attributes come from a short list, so nothing a model writes can become markup or a
// script. Pictures are never fetched: an address stays a link. `render` keeps the nodes of blocks that have not changed,
// so that a streamed answer costs only its last block.

import { el, iconButton } from "./dom.js";
import { beginsHtmlTable, takeHtmlTable } from "./tables.js";
import { t } from "./words.js";

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const MAX_DEPTH = 12; // of quotes and lists in one another; deeper ones stay text

/** Show `text` in `container`, reusing what is there from the last call. */
export function render(container, text) {
  const blocks = splitBlocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
  const before = container.markdownSources ?? [];
  const after = blocks.map((block) => JSON.stringify(block));
  let same = 0;
  while (same < before.length && same < after.length && before[same] === after[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...blocks.slice(same).map(blockNode));
  container.markdownSources = after;
}

// ---- blocks: an array of plain objects, so that they can be compared ----

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+•]|\d{1,9}[.)])(?:\s+(.*))?$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

function splitBlocks(lines, depth) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (!lines[i].trim()) i += 1;
    else i = takeBlock(lines, i, depth, blocks);
  }
  return blocks;
}

/** Read the block that begins at line i, and return the line after it. */
function takeBlock(lines, i, depth, blocks) {
  const line = lines[i];
  const fence = FENCE.exec(line);
  if (fence) return takeFence(lines, i, fence, blocks);
  const heading = HEADING.exec(line);
  if (heading) {
    blocks.push({ kind: "heading", level: heading[1].length, text: heading[2] });
    return i + 1;
  }
  if (RULE.test(line)) {
    blocks.push({ kind: "rule" });
    return i + 1;
  }
  if (depth < MAX_DEPTH && QUOTE.test(line)) {
    let end = i;
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    const inner = lines.slice(i, end).map((quoted) => quoted.replace(QUOTE, ""));
    blocks.push({ kind: "quote", blocks: splitBlocks(inner, depth + 1) });
    return end;
  }
  if (depth < MAX_DEPTH && ITEM.test(line)) return takeList(lines, i, depth, blocks);
  if (beginsTable(lines, i)) return takeTable(lines, i, blocks);
  if (beginsHtmlTable(line)) {
    const [block, after] = takeHtmlTable(lines, i);
    blocks.push(block);
    return after;
  }
  return takeParagraph(lines, i, depth, blocks);
}

function takeFence(lines, i, fence, blocks) {
  const mark = fence[1];
  const closing = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}\\s*$`);
  let end = i + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  blocks.push({ kind: "code", language: fence[2], text: lines.slice(i + 1, end).join("\n") });
  return Math.min(end + 1, lines.length);
}

function takeParagraph(lines, i, depth, blocks) {
  let end = i + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end += 1;
  blocks.push({ kind: "paragraph", text: lines.slice(i, end).map((line) => line.trimStart()).join("\n") });
  return end;
}

function interrupts(lines, i, depth) {
  const line = lines[i];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || beginsTable(lines, i) || beginsHtmlTable(line)) return true;
  return depth < MAX_DEPTH && (QUOTE.test(line) || (ITEM.test(line) && ITEM.exec(line)[3] !== undefined));
}

function takeList(lines, i, depth, blocks) {
  const first = ITEM.exec(lines[i]);
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || item[1].length < indent || item[1].length > indent + 1 || /\d/.test(item[2]) !== ordered) break;
    const inner = [item[3] ?? ""];
    const content = item[1].length + item[2].length + 1;
    i += 1;
    while (i < lines.length && belongs(lines, i, indent)) {
      inner.push(dedent(lines[i], content));
      i += 1;
    }
    items.push(splitBlocks(inner, depth + 1));
  }
  blocks.push({ kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items });
  return i;
}

/** Whether line i continues the item before it: indented deeper, or lazily following without a blank line. */
function belongs(lines, i, indent) {
  const line = lines[i];
  if (!line.trim()) {
    const next = lines.slice(i + 1).find((later) => later.trim());
    return next !== undefined && leading(next) > indent + 1;
  }
  if (leading(line) > indent + 1) return true;
  const starts = ITEM.test(line) || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
  return !starts && Boolean(lines[i - 1].trim());
}

const leading = (line) => line.length - line.trimStart().length;
const dedent = (line, columns) => line.slice(Math.min(leading(line), columns));

const beginsTable = (lines, i) =>
  lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && TABLE_RULE.test(lines[i + 1]) &&
  cells(lines[i + 1]).length === cells(lines[i]).length;

function takeTable(lines, i, blocks) {
  const align = cells(lines[i + 1]).map((rule) => {
    if (/^:-+:$/.test(rule)) return "center";
    return /-:$/.test(rule) ? "right" : "left";
  });
  const head = cells(lines[i]);
  const rows = [];
  for (i += 2; i < lines.length && lines[i].includes("|") && lines[i].trim(); i += 1) {
    const row = cells(lines[i]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  blocks.push({ kind: "table", align, head, rows });
  return i;
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function blockNode(block) {
  switch (block.kind) {
    case "heading":
      return el(`h${Math.min(6, block.level + 2)}`, {}, ...inline(block.text)); // the page itself has h1 and h2
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, ...block.blocks.map(blockNode));
    case "code":
      return codeNode(block);
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    case "html-table":
      return htmlTableNode(block);
    default:
      return el("p", {}, ...inline(block.text));
  }
}

function codeNode(block) {
  const copy = iconButton("copy", t("copy"), () => navigator.clipboard?.writeText(block.text));
  const bar = el("div.code-bar", {}, el("span", {}, block.language), copy);
  return el("div.code", {}, bar, el("pre", { tabindex: "0" }, el("code", {}, block.text)));
}

function listNode(block) {
  const items = block.items.map((blocks) => {
    const tight = blocks[0]?.kind === "paragraph"; // its words stand beside the bullet, without a paragraph's margins
    const task = tight ? /^\[([ xX])\]\s+/.exec(blocks[0].text) : null;
    const text = tight ? blocks[0].text.slice(task ? task[0].length : 0) : "";
    const box = task ? el("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": text }) : null;
    return el("li", {}, box, ...(tight ? inline(text) : []), ...blocks.slice(tight ? 1 : 0).map(blockNode));
  });
  return block.ordered ? el("ol", { start: block.start }, ...items) : el("ul", {}, ...items);
}

function tableNode(block) {
  const row = (tag, texts) => el("tr", {}, ...texts.map((text, i) => el(`${tag}.${block.align[i]}`, {}, ...inline(text))));
  const head = el("thead", {}, row("th", block.head));
  const body = el("tbody", {}, ...block.rows.map((texts) => row("td", texts)));
  return el("div.table", { tabindex: "0", role: "region", "aria-label": block.head.join(", ") }, el("table", {}, head, body));
}

function htmlTableNode(block) {
  const cell = (one) => {
    const spans = { colspan: one.columns > 1 ? one.columns : null, rowspan: one.rows > 1 ? one.rows : null };
    return el(one.head ? "th.left" : "td.left", spans, ...inline(one.text));
  };
  const rows = block.rows.map((row) => el("tr", {}, ...row.map(cell)));
  const label = block.rows[0]?.map((one) => one.text).join(", ") || t("table");
  return el("div.table", { tabindex: "0", role: "region", "aria-label": label }, el("table", {}, el("tbody", {}, ...rows)));
}

// ---- inline ----

const INLINE = new RegExp(
  [
    "(?<code>(`+)(?!`)(?<codeText>[\\s\\S]*?[^`])\\2(?!`))",
    "(?<escaped>\\\\[!-/:-@\\[-`{-~])",
    "(?<image>!?)\\[(?<label>(?:[^\\[\\]\\\\]|\\\\.)*)\\]\\((?<address>[^\\s()]*(?:\\([^\\s()]*\\)[^\\s()]*)*)(?:\\s+\"[^\"]*\")?\\)",
    "(?<bold>\\*\\*(?=\\S)(?<boldText>(?:[^*]|\\*(?!\\*))+?)(?<=\\S)\\*\\*|__(?=\\S)(?<boldText2>[^_]+?)(?<=\\S)__)",
    "(?<italic>\\*(?=[^\\s*])(?<italicText>[^*\\n]+?)(?<=\\S)\\*|(?<![\\p{L}\\p{N}_])_(?=[^\\s_])(?<italicText2>[^_\\n]+?)(?<=\\S)_(?![\\p{L}\\p{N}_]))",
    "(?<struck>~~(?=\\S)(?<struckText>[^~]+?)(?<=\\S)~~)",
    "(?<bare>https?:\\/\\/[^\\s<>\"'`|（）。，；]*[^\\s<>\"'`|（）。，；.,;:!?)\\]*_])",
    "(?<breaking><br\\s*\\/?>|\\n)",
  ].join("|"),
  "giu",
);

/** Nodes for a run of text; text that no rule knows stays text. */
function inline(text, depth = 0) {
  const nodes = [];
  let last = 0;
  for (const match of depth > MAX_DEPTH ? [] : text.matchAll(INLINE)) {
    if (match.index > last) nodes.push(text.slice(last, match.index));
    nodes.push(inlineNode(match, depth + 1));
    last = match.index + match[0].length;
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}

function inlineNode(match, depth) {
  const found = match.groups;
  if (found.code) return el("code", {}, found.codeText.replace(/^ (.*) $/, "$1"));
  if (found.escaped) return found.escaped.slice(1);
  if (found.bold) return el("strong", {}, ...inline(found.boldText ?? found.boldText2, depth));
  if (found.italic) return el("em", {}, ...inline(found.italicText ?? found.italicText2, depth));
  if (found.struck) return el("s", {}, ...inline(found.struckText, depth));
  if (found.breaking) return el("br");
  if (found.bare) return link(found.bare, [found.bare]);
  return link(found.address, found.label ? inline(found.label, depth) : [found.address]) ?? match[0];
}

function link(address, children) {
  if (!SAFE_LINK.test(address)) return null; // javascript:, data: and relative addresses stay as they were written
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}
