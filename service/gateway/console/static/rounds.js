// An explanation as paths of tokens: the one that the target took, then those that it did not.

import { element } from "./dom.js";

export function showRounds(list, explanation) {
  list.replaceChildren(...explanation.rounds.map((round) => element("li", {}, ...pathsOf(round.tokens))));
}

// Each guess at the end of a branch tells of a path; what it has in common with another is shown once.
function pathsOf(tokens) {
  const hasChild = new Set(tokens.map((token) => token.parent));
  const accepted = tokens.filter((token) => token.accepted);
  const taken = element("ul", { class: "paths" }, element("li", {}, ...accepted.flatMap(chips)));
  const shown = new Set(accepted);
  const rejected = [];
  for (const [i, token] of tokens.entries()) {
    if (hasChild.has(i) || token.accepted) continue;
    const path = [];
    for (let at = i; at >= 0 && !shown.has(tokens[at]); at = tokens[at].parent) {
      shown.add(tokens[at]);
      path.unshift(tokens[at]);
    }
    // What is forced beyond the list's end is nobody's guess.
    if (path.every((token) => token.forced)) continue;
    rejected.push(element("li", { class: "rejected-path" }, ...path.flatMap(chips)));
  }
  if (!rejected.length) return [taken];
  const many = `${rejected.length} rejected ${rejected.length === 1 ? "path" : "paths"}`;
  return [
    taken,
    element("details", { class: "rejected-paths" }, element("summary", {}, many), element("ul", { class: "paths" }, ...rejected)),
  ];
}

function kindOf(token) {
  if (token.drafted && !token.accepted) return ["rejected", "drafted and rejected"];
  if (token.forced) return ["forced", "forced"];
  return token.drafted ? ["accepted", "drafted and accepted"] : ["own", "the target's own"];
}

function chips(token) {
  const [kind, words] = kindOf(token);
  const text = token.code === null ? "┆" : String.fromCharCode(97 + token.slot) + token.code;
  const name = token.code === null ? "separator" : `slot ${token.slot}, code ${token.code}`;
  const chip = element("span", { class: `token ${kind}`, title: `${name}: ${words}` }, text);
  const title = token.item_id === null ? [] : [element("span", { class: "completes" }, token.title || token.item_id)];
  return [chip, ...title];
}
