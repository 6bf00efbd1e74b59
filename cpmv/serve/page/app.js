// The page's state and wiring: which chat is open, what is attached, which answers are running.

import { Attachments } from "./attachments.js";
import { newChat, revive, runAnswer, titleOf } from "./chat.js";
import { byId, el } from "./dom.js";
import { drawHistory } from "./history.js";
import { forgetUrl } from "./media.js";
import { SeenDialog } from "./seen.js";
import { modelName, setKey } from "./server.js";
import { allChats, available, deleteChat, deleteFiles, loadFile, saveChat, saveFile } from "./store.js";
import { AnswerView, userTurn } from "./transcript.js";
import { currentLanguage, preferredLanguage, remember, remembered, setLanguage, t } from "./words.js";

const THEMES = ["auto", "light", "dark"];
const NEAR_END = 80; // pixels from the end within which the view follows a growing answer
const TOAST_MS = 6000;

const running = new Map(); // chat id -> AbortController of its answer
let chats = [];
let chat = newChat(remembered("cpmv.deep") === "1");
let model = "";
let follows = true;
let toastTimer = 0;

const question = byId("question");
const scroller = byId("scroller");
const seen = new SeenDialog();
const attachments = new Attachments({
  media: () => chat.media,
  onChange: drawTools,
  onSee: (record) => seen.open(record, chat.media, changeMedia),
  onProblem: toast,
});

// ---- drawing ----

function drawAll() {
  setLanguage(currentLanguage());
  byId("language").querySelector("span").textContent = currentLanguage() === "zh" ? "English" : "中文";
  byId("language").lang = currentLanguage() === "zh" ? "en" : "zh";
  drawTheme();
  drawIdeas();
  drawHistoryList();
  drawChat();
  attachments.draw();
}

function drawTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  byId("theme").querySelector("span").textContent = t(`theme_${theme}`);
  byId("theme").setAttribute("aria-label", t("theme", t(`theme_${theme}`)));
}

function drawIdeas() {
  const chip = (idea) => el("button.idea", { type: "button", click: () => setQuestion(idea) }, idea);
  byId("ideas").replaceChildren(...t("ideas").map(chip));
}

function drawHistoryList() {
  drawHistory(chats, chat.id, { onOpen: openChat, onDelete: removeChat });
}

function drawChat() {
  document.body.classList.toggle("empty", !chat.turns.length);
  byId("title").textContent = chat.title || t("new_chat");
  byId("welcome").hidden = Boolean(chat.turns.length);
  byId("turns").replaceChildren(...chat.turns.map(turnNode));
  for (const input of byId("depth").querySelectorAll("input")) {
    input.checked = (input.value === "deep") === chat.deep;
    input.parentElement.title = t(`${input.value}_hint`);
  }
  drawTools();
}

const views = new WeakMap(); // turn -> AnswerView on the page

function turnNode(turn) {
  if (turn.role === "user") return userTurn(turn, { onSee: (record) => seen.open(record, chat.media), onEdit: edit });
  const view = new AnswerView(turn, { onRetry: retry });
  views.set(turn, view);
  return view.node;
}

function drawTools() {
  const busy = running.has(chat.id);
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
  byId("send").disabled = !question.value.trim() && !attachments.records.length;
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
  toEnd(); // a taller composer must not hide the end of the answer
}

function toEnd(always = false) {
  if (always) follows = true;
  if (follows) scroller.scrollTop = scroller.scrollHeight;
}

function toast(text, action = null) {
  const node = byId("toast");
  node.replaceChildren(el("span", {}, text), ...(action ? [el("button", { type: "button", click: action.run }, action.label)] : []));
  node.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (node.hidden = true), TOAST_MS);
}

function announce(text) {
  byId("announcer").textContent = text;
}

// ---- asking ----

async function send() {
  const text = question.value.trim();
  const current = chat;
  if (running.has(current.id) || (!text && !attachments.records.length)) return;
  const records = attachments.take();
  question.value = "";
  drawTools();
  try {
    for (const record of records) await saveFile(record);
  } catch {
    attachments.put(records); // the browser's store is full or forbidden
    setQuestion(text);
    toast(t("no_storage"));
    return;
  }
  current.turns.push({ role: "user", text, files: records.map((record) => record.id) });
  current.title ||= titleOf(text, records);
  remember("cpmv.chat", current.id);
  if (!chats.includes(current)) chats.unshift(current);
  await askAgain(current);
}

/** Answer the last question of a chat. */
async function askAgain(current) {
  const turn = { role: "assistant", text: "", thinking: "", status: "running" };
  current.turns.push(turn);
  current.updated = Date.now();
  chats = [current, ...chats.filter((other) => other !== current)];
  const controller = new AbortController();
  running.set(current.id, controller);
  if (current === chat) drawChat();
  drawHistoryList();
  toEnd(true);
  announce(t("answering"));
  await saveChat(current);
  await runAnswer(current, turn, model, controller.signal, () => views.get(turn)?.drawSoon(toEnd));
  running.delete(current.id);
  views.get(turn)?.draw();
  await saveChat(current);
  if (current !== chat) return;
  drawTools();
  toEnd();
  announce(turn.error ?? t("answer_ready", turn.text));
  if (turn.errorStatus === 401) askForKey();
}

function retry(turn) {
  if (running.has(chat.id)) return;
  chat.turns.splice(chat.turns.indexOf(turn)); // what came after an answer belonged to it
  askAgain(chat);
  question.focus();
}

/** Take a question back into the composer, with its files; it and what followed leave the chat. */
async function edit(turn) {
  if (running.has(chat.id)) return;
  const records = [];
  for (const id of turn.files ?? []) records.push(await loadFile(id));
  const dropped = chat.turns.splice(chat.turns.indexOf(turn));
  await deleteFiles(dropped.slice(1).flatMap((later) => later.files ?? []));
  await saveChat(chat);
  drawChat();
  attachments.put(records.filter(Boolean));
  setQuestion(turn.text);
}

function stop() {
  running.get(chat.id)?.abort();
  question.focus();
}

function setQuestion(text) {
  question.value = text;
  drawTools();
  question.focus();
}

function changeMedia(media) {
  chat.media = media;
  attachments.draw();
  if (chat.turns.length) saveChat(chat);
}

function askForKey() {
  byId("key-dialog").showModal();
  byId("key").focus();
}

// ---- chats ----

function openChat(next) {
  chat = next;
  remember("cpmv.chat", chat.id);
  drawChat();
  drawHistoryList();
  attachments.draw();
  toEnd(true);
  if (isNarrow()) showSidebar(false);
  question.focus();
}

function startChat() {
  openChat(newChat(chat.deep));
}

async function removeChat(gone) {
  running.get(gone.id)?.abort();
  const ids = gone.turns.flatMap((turn) => turn.files ?? []);
  const records = (await Promise.all(ids.map(loadFile))).filter(Boolean);
  await deleteChat(gone);
  chats = chats.filter((other) => other !== gone);
  if (gone === chat) openChat(newChat(chat.deep));
  drawHistoryList();
  const undo = async () => {
    byId("toast").hidden = true;
    for (const record of records) await saveFile(record);
    await saveChat(gone);
    chats = [gone, ...chats].sort((a, b) => b.updated - a.updated);
    openChat(gone);
  };
  toast(t("deleted"), { label: t("undo"), run: undo });
  ids.forEach(forgetUrl);
}

// ---- sidebar ----

const isNarrow = () => matchMedia("(max-width: 820px)").matches;

function showSidebar(open) {
  document.body.classList.toggle("sidebar-open", open);
  byId("sidebar").inert = !open;
  byId("scrim").hidden = !(open && isNarrow());
  for (const id of ["show-sidebar", "hide-sidebar"]) byId(id).setAttribute("aria-expanded", String(open));
}

function toggleSidebar() {
  const open = !document.body.classList.contains("sidebar-open");
  showSidebar(open);
  if (!isNarrow()) remember("cpmv.sidebar", open ? "1" : "0");
  byId(open ? "hide-sidebar" : "show-sidebar").focus();
}

// ---- wiring ----

function wireComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  question.addEventListener("input", drawTools);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Enter also picks a Chinese word
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", stop);
  byId("attach").addEventListener("click", () => byId("picker").click());
  byId("picker").addEventListener("change", (event) => {
    attachments.add(event.target.files);
    event.target.value = "";
    question.focus();
  });
  byId("depth").addEventListener("change", (event) => {
    chat.deep = event.target.value === "deep";
    remember("cpmv.deep", chat.deep ? "1" : "0");
    if (chat.turns.length) saveChat(chat);
  });
}

function wireFiles() {
  const zone = byId("dropzone");
  let depth = 0; // dragenter and dragleave come for every element passed
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    zone.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth = Math.max(0, depth - 1);
    zone.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    zone.hidden = true;
    attachments.add(event.dataTransfer.files);
    question.focus();
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    attachments.add(event.clipboardData.files);
  });
}

function wirePage() {
  for (const id of ["new-chat", "new-chat-top"]) byId(id).addEventListener("click", startChat);
  for (const id of ["show-sidebar", "hide-sidebar"]) byId(id).addEventListener("click", toggleSidebar);
  byId("scrim").addEventListener("click", toggleSidebar);
  byId("language").addEventListener("click", () => {
    setLanguage(currentLanguage() === "zh" ? "en" : "zh");
    remember("cpmv.language", currentLanguage());
    drawAll();
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    remember("cpmv.theme", next);
    drawTheme();
  });
  scroller.addEventListener("scroll", () => {
    follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
    byId("to-end").hidden = follows;
  });
  byId("to-end").addEventListener("click", () => toEnd(true));
  byId("key-form").addEventListener("submit", async () => {
    setKey(byId("key").value.trim());
    byId("key").value = "";
    await greet();
    const last = chat.turns.at(-1);
    if (last?.errorStatus === 401 && model) retry(last);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (isNarrow() && document.body.classList.contains("sidebar-open")) toggleSidebar();
    else if (running.has(chat.id)) stop();
  });
  matchMedia("(max-width: 820px)").addEventListener("change", () => showSidebar(!isNarrow()));
}

/** Learn the model's name; a server that wants a key says so here. */
async function greet() {
  try {
    model = await modelName();
    byId("model-name").textContent = model;
  } catch (error) {
    if (error.status === 401) askForKey();
    else toast(error.message);
  }
}

async function start() {
  setLanguage(preferredLanguage());
  wireComposer();
  wireFiles();
  wirePage();
  showSidebar(!isNarrow() && remembered("cpmv.sidebar") !== "0");
  requestAnimationFrame(() => requestAnimationFrame(() => document.body.classList.add("ready"))); // no sliding in at first
  drawAll();
  await greet();
  if (!(await available())) {
    toast(t("no_storage"));
    return;
  }
  chats = (await allChats()).map(revive);
  const last = chats.find((kept) => kept.id === remembered("cpmv.chat"));
  drawHistoryList();
  if (last && !chat.turns.length) openChat(last);
}

start();
