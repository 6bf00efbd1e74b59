// History in the browser: conversations and the files in them, in IndexedDB and nowhere else.
//
// A conversation is {id, title, updated, deep, media, turns}; a turn {role, text, thinking?, thinkingSeconds?, files?,
// status?, error?, usage?, seconds?}; a file {id, name, type, kind, blob}. Where the browser forbids storage the page
// works on, for this visit.

const NAME = "cpmv";
const VERSION = 1;

let opened = null;
const memory = { chats: new Map(), files: new Map() }; // where the browser gives no database

/** Whether history can be kept here. */
export async function available() {
  return Boolean(await database());
}

export async function allChats() {
  return (await all("chats")).sort((a, b) => b.updated - a.updated);
}

export const loadFile = (id) => get("files", id);
export const saveFile = (file) => put("files", file);
export const saveChat = (chat) => put("chats", chat);

/** Remove a conversation and the files that only it holds (each file belongs to one turn of one conversation). */
export async function deleteChat(chat) {
  await remove("chats", chat.id);
  for (const turn of chat.turns) await deleteFiles(turn.files ?? []);
}

export async function deleteFiles(ids) {
  for (const id of ids) await remove("files", id);
}

function database() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, VERSION);
    } catch {
      resolve(null);
      return;
    }
    request.onupgradeneeded = () => {
      request.result.createObjectStore("chats", { keyPath: "id" });
      request.result.createObjectStore("files", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
    request.onblocked = () => resolve(null);
  });
  return opened;
}

const all = (name) => run(name, "readonly", (store) => store.getAll(), () => [...memory[name].values()]);
const get = (name, id) => run(name, "readonly", (store) => store.get(id), () => memory[name].get(id));
const put = (name, value) => run(name, "readwrite", (store) => store.put(value), () => memory[name].set(value.id, value));
const remove = (name, id) => run(name, "readwrite", (store) => store.delete(id), () => memory[name].delete(id));

/** Do `action` on a store of the database, or `instead` where there is none. */
async function run(name, mode, action, instead) {
  const base = await database();
  if (!base) return instead();
  return new Promise((resolve, reject) => {
    const transaction = base.transaction(name, mode);
    const request = action(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}
