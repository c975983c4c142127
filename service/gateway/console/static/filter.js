// Conditions on attributes of items, as the service's filters take them.

import { byId, element } from "./dom.js";

const OPS = { is: "==", "is not": "!=", "is one of": "in", "is none of": "not in", "<": "<", "≤": "<=", ">": ">", "≥": ">=" };

function addCondition() {
  const name = element("input", { list: "attributes", placeholder: "attribute", "aria-label": "attribute", required: "" });
  const op = element("select", { "aria-label": "comparison" }, ...Object.keys(OPS).map((words) => element("option", {}, words)));
  const value = element("input", { placeholder: "value, or values, with commas", "aria-label": "value", required: "" });
  const row = element("li", {}, name, op, value);
  row.append(element("button", { type: "button", "aria-label": "Remove this condition", onclick: () => row.remove() }, "remove"));
  byId("conditions").append(row);
  name.focus();
}

function plain(text) {
  const word = text.trim();
  if (word === "true" || word === "false") return word === "true";
  return word !== "" && Number.isFinite(Number(word)) ? Number(word) : word;
}

export function conditions() {
  return [...byId("conditions").children].map((row) => {
    const [name, op, value] = row.querySelectorAll("input, select");
    const many = op.value.includes("one of") || op.value.includes("none of");
    return {
      attribute: name.value,
      op: OPS[op.value],
      value: many ? value.value.split(",").map(plain) : plain(value.value),
    };
  });
}

export function offerAttributes(items) {
  const names = new Set(items.flatMap((item) => Object.keys(item.attributes ?? {})));
  byId("attributes").replaceChildren(...[...names].sort().map((name) => element("option", { value: name })));
}

byId("add-condition").addEventListener("click", addCondition);
