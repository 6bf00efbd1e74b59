// Tables that a model writes as HTML, as models of documents like to: read into rows of cells, as text.
//
// Only the tags of tables are known, and of attributes only how many columns or rows a cell spans. Everything else
// between them, tags included, is text of a cell.

const OPENS = /^\s*<table\b/i;
const TAG = /<(\/?)(table|thead|tbody|tfoot|tr|td|th|caption|br)\b([^<>]*)>/gi;
const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'", nbsp: " " };
const MOST_SPAN = 100;

export const beginsHtmlTable = (line) => OPENS.test(line);

/** Read the table that begins at line i: [block, the line after it]. One that has not ended yet goes to the end. */
export function takeHtmlTable(lines, i) {
  let end = i;
  while (end < lines.length && !/<\/table\s*>/i.test(lines[end])) end += 1;
  const source = lines.slice(i, end + 1).join("\n");
  const close = source.search(/<\/table\s*>/i);
  return [{ kind: "html-table", rows: readRows(close < 0 ? source : source.slice(0, close)) }, Math.min(end + 1, lines.length)];
}

function readRows(source) {
  const rows = [];
  let cell = null;
  let last = 0;
  const keep = (text) => {
    if (cell) cell.text += decoded(text.replace(/\s+/g, " "));
  };
  for (const tag of source.matchAll(TAG)) {
    keep(source.slice(last, tag.index));
    last = tag.index + tag[0].length;
    const [, closes, name, attributes] = tag;
    const kind = name.toLowerCase();
    if (kind === "br" && cell) cell.text += "\n";
    else if (kind === "tr" && !closes) rows.push([]);
    else if (kind === "td" || kind === "th") {
      cell = closes ? null : { text: "", head: kind === "th", columns: span("col", attributes), rows: span("row", attributes) };
      if (cell) {
        if (!rows.length) rows.push([]);
        rows.at(-1).push(cell);
      }
    } else cell = null;
  }
  keep(source.slice(last).replace(/<[^<>]*$/, "")); // a tag of which only the beginning has arrived
  for (const row of rows) for (const one of row) one.text = one.text.trim();
  return rows.filter((row) => row.length);
}

function span(direction, attributes) {
  const found = new RegExp(`\\b${direction}span\\s*=\\s*["']?(\\d{1,4})`, "i").exec(attributes);
  return found ? Math.min(MOST_SPAN, Math.max(1, Number(found[1]))) : 1;
}

function decoded(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z]{2,6}));/gi, (whole, decimal, hex, name) => {
    if (name) return ENTITIES[name.toLowerCase()] ?? whole;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 31 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
