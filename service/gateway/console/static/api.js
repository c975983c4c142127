// Calls to the service that this page came from.

export class Problem extends Error {}

const base = new URL(".", document.baseURI);

export function key() {
  return sessionStorage.getItem("key") ?? "";
}

export function setKey(value) {
  sessionStorage.setItem("key", value);
}

async function call(path, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}) };
  if (key()) headers.authorization = `Bearer ${key()}`;
  let answer;
  try {
    answer = await fetch(new URL(path, base), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("the service does not answer");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Problem(problem.detail ?? problem.title ?? `status ${answer.status}`);
  }
  return answer;
}

async function json(path, options) {
  return (await call(path, options)).json();
}

function post(body, signal) {
  return { method: "POST", body: JSON.stringify(body), signal };
}

export const ready = () => json("health/ready");
export const users = () => json("console/users");
export const history = (user) => json(`users/${encodeURIComponent(user)}/history`);
export const item = (id) => json(`items/${encodeURIComponent(id)}`);
export const recommend = (body, signal) => json("recommend", post(body, signal));
export const record = (event) => json("events", post({ events: [event] }));

// Items as they are accepted go to `onItem`; the whole answer is returned.
export async function stream(body, onItem, signal) {
  const answer = await call("recommend/stream", post(body, signal));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Problem("the list broke off");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n", 2).map((line) => line.slice(line.indexOf(": ") + 2));
      const told = JSON.parse(data);
      if (name === "done") return told;
      if (name === "error") throw new Problem(told.detail);
      onItem(told);
    }
  }
}
