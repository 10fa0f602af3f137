// The playground: the form becomes a chat completion request, its stream becomes the thread.

import { ApiError, call } from "./api.js";
import { codeSample } from "./code_samples.js";
import { announce } from "./copy.js";
import { events } from "./sse.js";
import { Thread } from "./thread.js";

const $ = (id) => document.getElementById(id);
const thread = new Thread($("thread"), $("thread-empty"));
const messages = [];
let running = null;

const TOOL_EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city now.",
      parameters: {
        type: "object",
        properties: { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
        required: ["city"],
      },
    },
  },
];
const SCHEMA_EXAMPLE = {
  type: "object",
  properties: { capital: { type: "string" }, inhabitants: { type: "integer" } },
  required: ["capital", "inhabitants"],
  additionalProperties: false,
};

// --- the request ---------------------------------------------------------------------------------

function json(id) {
  const text = $(id).value.trim();
  const complaint = $(`${id}-error`);
  complaint.hidden = true;
  if (!text) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    complaint.textContent = `This is not JSON: ${error.message}`;
    complaint.hidden = false;
    $(`${id}-fold`).open = true;
    throw error;
  }
}

function number(id) {
  const value = $(id).value;
  return value === "" ? undefined : Number(value);
}

function request(pending) {
  const system = $("system").value.trim();
  const tools = json("tools");
  const schema = json("schema");
  const body = {
    model: $("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages, ...pending],
    reasoning_effort: document.querySelector('input[name="effort"]:checked').value,
    temperature: number("temperature"),
    top_p: number("top-p"),
    max_tokens: number("max-tokens"),
    seed: number("seed"),
    tools: tools?.length ? tools : undefined,
    response_format: schema && { type: "json_schema", json_schema: { name: "answer", schema } },
    stream: true,
    stream_options: { include_usage: true },
  };
  if (body.temperature === 1) delete body.temperature;
  if (body.top_p === 1) delete body.top_p;
  return JSON.parse(JSON.stringify(body));
}

// --- one turn ------------------------------------------------------------------------------------

async function ask(newMessages) {
  let body;
  try {
    body = request(newMessages);
  } catch {
    return;
  }
  for (const message of newMessages) if (message.role === "user") thread.user(message.content);
  messages.push(...newMessages);
  const view = thread.assistant();
  const turn = { text: "", reasoning: "", calls: [], usage: null, reason: null, first: 0, started: performance.now() };
  setRunning(new AbortController());
  try {
    const response = await call("/v1/chat/completions", { method: "POST", body, signal: running.signal });
    for await (const event of events(response)) {
      if (event.data === "[DONE]") break;
      take(turn, JSON.parse(event.data));
      draw(view, turn, false);
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
    else turn.reason = "stopped";
  } finally {
    setRunning(null);
    draw(view, turn, true);
    remember(turn);
  }
}

function take(turn, chunk) {
  if (chunk.error) throw new ApiError(0, chunk.error);
  if (chunk.usage) turn.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  if (!turn.first && (delta.content || delta.reasoning_content || delta.tool_calls)) turn.first = performance.now();
  turn.text += delta.content ?? "";
  turn.reasoning += delta.reasoning_content ?? "";
  for (const part of delta.tool_calls ?? []) {
    const known = (turn.calls[part.index] ??= { id: part.id, name: "", arguments: "" });
    known.name += part.function?.name ?? "";
    known.arguments += part.function?.arguments ?? "";
  }
  if (choice.finish_reason) turn.reason = choice.finish_reason;
}

function draw(view, turn, done) {
  view.showReasoning(turn.reasoning, done || Boolean(turn.text));
  view.showText(turn.text, done);
  view.showCalls(turn.calls, done && turn.calls.length ? answerCall : null);
  if (done) {
    view.showFoot(figures(turn));
    announce(turn.text || "The answer has ended.");
  }
  thread.follow();
}

function remember(turn) {
  if (!turn.text && !turn.calls.length) return;
  const message = { role: "assistant", content: turn.text || null };
  if (turn.calls.length) {
    if (turn.reasoning) message.reasoning_content = turn.reasoning;
    message.tool_calls = turn.calls.map((known) => ({
      id: known.id,
      type: "function",
      function: { name: known.name, arguments: known.arguments },
    }));
  }
  messages.push(message);
  pendingResults = new Map();
}

let pendingResults = new Map();

function answerCall(known, result) {
  pendingResults.set(known.id, { role: "tool", tool_call_id: known.id, content: result });
  const asked = messages.at(-1)?.tool_calls ?? [];
  if (asked.every((one) => pendingResults.has(one.id))) ask(asked.map((one) => pendingResults.get(one.id)));
}

function fail(error) {
  thread.error(error instanceof ApiError ? error.message : `The server cannot be reached: ${error.message}`);
}

// --- figures -------------------------------------------------------------------------------------

function figures(turn) {
  const parts = [];
  const seconds = (performance.now() - (turn.first || turn.started)) / 1000;
  if (turn.usage) {
    const { prompt_tokens: input, completion_tokens: output } = turn.usage;
    parts.push(`${input.toLocaleString()} in, ${output.toLocaleString()} out`);
    if (turn.first && output > 1) parts.push(`${((output - 1) / Math.max(seconds, 0.001)).toFixed(1)} tokens/s`);
    const price = cost(turn.usage);
    if (price !== null) parts.push(price);
  }
  if (turn.first) parts.push(`first token after ${((turn.first - turn.started) / 1000).toFixed(2)} s`);
  if (turn.reason && turn.reason !== "stop") parts.push(`ended by ${turn.reason.replace("_", " ")}`);
  return parts;
}

function cost(usage) {
  const price = $("price-note").dataset;
  if (!price.inputNanousd) return null;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const nano =
    (usage.prompt_tokens - cached) * Number(price.inputNanousd) +
    cached * Number(price.cachedNanousd) +
    usage.completion_tokens * Number(price.outputNanousd);
  return `$${(nano / 1e9).toFixed(nano < 1e6 ? 7 : 4)}`;
}

// --- the page ------------------------------------------------------------------------------------

function setRunning(controller) {
  running = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
  $("thread").setAttribute("aria-busy", String(Boolean(controller)));
  if (!controller) $("prompt").focus();
}

function send() {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("prompt").value = "";
  ask([{ role: "user", content: text }]);
}

function showCode(language) {
  for (const tab of document.querySelectorAll("#code-dialog [role=tab]")) {
    const chosen = tab.dataset.language === language;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) $("code-panel").setAttribute("aria-labelledby", tab.id);
  }
  const typed = $("prompt").value.trim();
  const pending = typed || !messages.length ? [{ role: "user", content: typed || "Hello!" }] : [];
  try {
    $("code-text").textContent = codeSample(language, request(pending), location.origin);
  } catch {
    $("code-text").textContent = "The tools or the schema are not JSON; mend them first.";
  }
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  thread.clear();
  $("prompt").focus();
});
$("view-code").addEventListener("click", () => showCode("curl"));
for (const tab of document.querySelectorAll("#code-dialog [role=tab]")) {
  tab.addEventListener("click", () => showCode(tab.dataset.language));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    const other = step && tab[step];
    if (other) {
      showCode(other.dataset.language);
      other.focus();
    }
  });
}
for (const starter of document.querySelectorAll("[data-starter]")) {
  starter.addEventListener("click", () => {
    $("prompt").value = starter.textContent;
    send();
  });
}
$("tools-example").addEventListener("click", () => ($("tools").value = JSON.stringify(TOOL_EXAMPLE, null, 2)));
$("schema-example").addEventListener("click", () => ($("schema").value = JSON.stringify(SCHEMA_EXAMPLE, null, 2)));
function setSettings(open) {
  document.querySelector(".playground").dataset.settings = open ? "open" : "closed";
  $("settings-open").setAttribute("aria-expanded", String(open));
  (open ? $("settings-close") : $("settings-open")).focus();
}
$("settings-open").addEventListener("click", () => setSettings($("settings-open").getAttribute("aria-expanded") !== "true"));
$("settings-close").addEventListener("click", () => setSettings(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("settings-open").getAttribute("aria-expanded") === "true") setSettings(false);
});
