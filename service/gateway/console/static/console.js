// The console: a user's history, lists as they are written, and what every round guessed.

import * as api from "./api.js";
import { byId, element } from "./dom.js";
import { conditions, offerAttributes } from "./filter.js";
import { showRounds } from "./rounds.js";

const LONGEST_HISTORY = 100;
const LONGEST_VALUE = 40;
const MOST_USERS = 20; // that this browser remembers to have asked for
let asking = new AbortController();
const items = new Map(); // what is known of items, by ID

function show(problem) {
  const place = byId("problem");
  place.textContent = problem?.message ?? "";
  place.hidden = !problem;
}

function itemRow(item, { number, button, score, shared } = {}) {
  // A description would hide the rest.
  const attributes = Object.entries(item.attributes ?? {}).filter(([, value]) => String(value).length <= LONGEST_VALUE);
  const more = [item.item_id, ...attributes.map(([name, value]) => `${name}: ${[value].flat().join(", ")}`)];
  if (score != null) more.push(`probability ${score.toFixed(3)}`);
  const about = element(
    "span",
    { class: "about" },
    element("span", { class: "title" }, item.title || item.item_id),
    element("span", { class: "more" }, more.join(" · ")),
  );
  const row = element("span", { class: `row${shared ? " shared" : ""}` }, about, ...(button ? [button] : []));
  const made = element("li", { "data-item": item.item_id }, row);
  if (number) made.value = number;
  return made;
}

function metButton(user, item) {
  const meet = async (event) => {
    event.target.disabled = true;
    try {
      await api.record({ user_id: user, item_id: item.item_id, event_id: crypto.randomUUID?.() });
      await ask();
    } catch (error) {
      show(error);
      event.target.disabled = false;
    }
  };
  const name = `Record that ${user} met ${item.title || item.item_id}`;
  return element("button", { type: "button", "aria-label": name, onclick: meet }, "met it");
}

function recommended(user, item, shared = false) {
  items.set(item.item_id, item);
  return itemRow(item, { number: item.rank, score: item.score, shared, button: metButton(user, item) });
}

async function known(id) {
  if (!items.has(id)) {
    // An item that the catalogue does not hold has no title.
    const found = await api.item(id).catch(() => ({ item_id: id, title: "", attributes: {} }));
    items.set(id, found);
  }
  return items.get(id);
}

async function showHistory(user) {
  const { item_ids: ids } = await api.history(user);
  const latest = ids.slice(-LONGEST_HISTORY).reverse();
  const found = await Promise.all(latest.map(known));
  byId("history").replaceChildren(...found.map((item, i) => itemRow(item, { number: ids.length - i })));
  const rest = ids.length > latest.length ? `, the latest ${latest.length} of them` : ", the latest first";
  byId("history-note").textContent = ids.length ? `${ids.length} ${ids.length === 1 ? "item" : "items"}${rest}` : "Nothing yet.";
}

function query(user) {
  const wanted = conditions();
  return {
    user_id: user,
    num_items: byId("num-items").valueAsNumber,
    exclude_seen: byId("exclude-seen").checked,
    ...(wanted.length ? { filter: { all: wanted } } : {}),
  };
}

function noteOf(answer) {
  const { timings: spent, speculation } = answer;
  const notes = [`${spent.total_ms.toFixed(0)} ms`];
  if (answer.fallback) notes.push(`popular items: ${answer.fallback.replace("_", " ")}`);
  else notes.push(`history ${spent.history_ms.toFixed(0)}, queue ${spent.queue_ms.toFixed(0)}, prefill ${spent.prefill_ms.toFixed(0)}, decoding ${spent.decode_ms.toFixed(0)}`);
  if (speculation) notes.push(`${speculation.rounds} rounds of ${speculation.accepted_length.toFixed(1)} tokens`);
  if (answer.degraded) notes.push("the history store is down");
  if (answer.exhausted) notes.push("no other item is allowed");
  return notes.join(" · ");
}

async function showList(user, signal) {
  const list = byId("list");
  list.replaceChildren();
  byId("list-note").textContent = "writing…";
  byId("rounds-section").hidden = true;
  const body = { ...query(user), decoding: "list", explain: true, temperature: byId("temperature").valueAsNumber || 0 };
  const answer = await api.stream(body, (item) => list.append(recommended(user, item)), signal);
  byId("list-note").textContent = noteOf(answer);
  byId("service").textContent = `model ${answer.model_version}, catalogue ${answer.catalog_version}`;
  const { explanation } = answer;
  byId("rounds-section").hidden = !explanation;
  if (explanation) {
    byId("rounds-note").textContent =
      `${explanation.accepted_tokens} guesses accepted, ${explanation.rejected_tokens} rejected, ` +
      `${explanation.forced_tokens} tokens forced. Round 0 is what was decided when the history had been read.`;
    showRounds(byId("rounds"), explanation);
  }
  return answer;
}

async function showBeam(user, signal) {
  byId("beam-section").hidden = !byId("compare").checked;
  if (!byId("compare").checked) return null;
  byId("beam").replaceChildren();
  byId("beam-note").textContent = "searching…";
  const answer = await api.recommend({ ...query(user), decoding: "beam" }, signal);
  byId("beam-note").textContent = noteOf(answer);
  return answer;
}

function compare(user, list, beam) {
  const inList = new Set(list.items.map((item) => item.item_id));
  const shared = new Set(beam.items.map((item) => item.item_id).filter((id) => inList.has(id)));
  byId("list").replaceChildren(...list.items.map((item) => recommended(user, item, shared.has(item.item_id))));
  byId("beam").replaceChildren(...beam.items.map((item) => recommended(user, item, shared.has(item.item_id))));
  byId("beam-note").textContent += ` · ${shared.size} of ${beam.items.length} in both, in bold`;
}

async function ask() {
  const user = byId("user").value;
  if (!user) return;
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  show(null);
  rememberQuery(user);
  try {
    const [, list, beam] = await Promise.all([showHistory(user), showList(user, signal), showBeam(user, signal)]);
    if (beam) compare(user, list, beam);
    offerAttributes([...items.values()]);
  } catch (error) {
    if (error.name !== "AbortError") show(error);
  }
}

// What is asked stands in the address, so that it can be shared and asked again.
function rememberQuery(user) {
  const wanted = new URLSearchParams({ user, n: byId("num-items").value });
  if (byId("compare").checked) wanted.set("beam", "1");
  history.replaceState(null, "", `?${wanted}`);
  const latest = [user, ...latestUsers().filter((other) => other !== user)].slice(0, MOST_USERS);
  localStorage.setItem("users", JSON.stringify(latest));
}

function latestUsers() {
  return JSON.parse(localStorage.getItem("users") ?? "[]");
}

function recallQuery() {
  const wanted = new URLSearchParams(location.search);
  byId("user").value = wanted.get("user") ?? "";
  byId("num-items").value = wanted.get("n") ?? 10;
  byId("compare").checked = wanted.has("beam");
}

async function tellOfService() {
  try {
    await api.ready();
    byId("service").textContent = "ready";
    const { user_ids: ids } = await api.users();
    const offered = new Set([...latestUsers(), ...ids]);
    byId("users").replaceChildren(...[...offered].map((id) => element("option", { value: id })));
  } catch (error) {
    byId("service").textContent = error.message;
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("key").value = api.key();
byId("key").addEventListener("change", (event) => {
  api.setKey(event.target.value);
  tellOfService();
});
recallQuery();
await tellOfService();
await ask();
