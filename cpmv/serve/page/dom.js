// Build DOM nodes from data. Text always becomes text nodes; there is no way to pass HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make <tag.class> with attributes and children; a null child is left out, a function attribute is a listener. */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** One of the symbols at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows a picture and tells its purpose to a screen reader and on hover. */
export function iconButton(name, label, onClick, extra = {}) {
  return el("button.icon", { type: "button", "aria-label": label, title: label, click: onClick, ...extra }, icon(name));
}

export const byId = (id) => document.getElementById(id);
