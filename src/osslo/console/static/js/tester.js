// The API tester: any operation of the OpenAPI document, sent from this page to this server.

import { announce, copyText } from "./copy.js";
import { operations } from "./openapi.js";

const $ = (id) => document.getElementById(id);
const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";
let known = [];
let current = null;
let running = null;

// --- the list ------------------------------------------------------------------------------------

async function load() {
  const response = await fetch("/openapi.json");
  known = operations(await response.json());
  list("");
  choose(known.find((one) => one.id === decodeURIComponent(location.hash.slice(1))) ?? known.find((one) => one.path === "/v1/chat/completions" && one.method === "POST") ?? known[0]);
}

function list(filter) {
  const wanted = filter.toLowerCase();
  const shown = known.filter((one) => `${one.id} ${one.summary}`.toLowerCase().includes(wanted));
  const nodes = [];
  for (const tag of new Set(shown.map((one) => one.tag))) {
    nodes.push(make("p", "endpoint-group", tag));
    for (const one of shown.filter((other) => other.tag === tag)) nodes.push(endpointButton(one));
  }
  $("endpoints").replaceChildren(...(nodes.length ? nodes : [make("p", "muted small", "No endpoint matches.")]));
}

function endpointButton(operation) {
  const button = make("button", "endpoint");
  button.type = "button";
  button.title = operation.summary;
  button.setAttribute("aria-label", `${operation.method} ${operation.path}`);
  button.append(make("span", `method ${operation.method.toLowerCase()}`, operation.method), make("span", "", ...breakable(operation.path)));
  button.setAttribute("aria-current", String(operation === current));
  button.addEventListener("click", () => choose(operation));
  return button;
}

function breakable(path) {
  return path.split(/(?=\/)/).flatMap((part) => [document.createElement("wbr"), part]);
}

function choose(operation) {
  current = operation;
  history.replaceState(null, "", `#${encodeURIComponent(operation.id)}`);
  $("method").textContent = operation.method;
  $("method").className = `method ${operation.method.toLowerCase()}`;
  $("path").textContent = operation.path;
  $("summary").textContent = operation.summary;
  $("parameters").replaceChildren(...operation.parameters.map(parameterField));
  $("parameters").hidden = !operation.parameters.length;
  const multipart = operation.body?.type === "multipart/form-data";
  $("body-field").hidden = !operation.body;
  $("file-field").hidden = !multipart;
  resetBody();
  $("response").hidden = true;
  list($("filter").value);
}

function resetBody() {
  const example = current.body?.example;
  const fields = current.body?.type === "multipart/form-data" ? withoutFile(example) : example;
  $("body").value = fields === undefined || fields === null ? "" : JSON.stringify(fields, null, 2);
  $("body-error").hidden = true;
}

function withoutFile(example) {
  return Object.fromEntries(Object.entries(example ?? {}).filter(([name]) => name !== "file"));
}

function parameterField(parameter) {
  const id = `parameter-${parameter.in}-${parameter.name}`;
  const label = make("label", "", `${parameter.name}${parameter.required ? "" : " (optional)"}`);
  label.htmlFor = id;
  const input = make("input", "input mono");
  input.id = id;
  input.required = Boolean(parameter.required);
  input.dataset.name = parameter.name;
  input.dataset.in = parameter.in;
  return make("div", "field", label, input);
}

// --- sending -------------------------------------------------------------------------------------

function address() {
  let path = current.path;
  const query = new URLSearchParams();
  for (const input of $("parameters").querySelectorAll("input")) {
    const { name, in: where } = input.dataset;
    if (where === "path") path = path.replace(`{${name}}`, encodeURIComponent(input.value)).replace(`{${name}:path}`, encodeURIComponent(input.value));
    else if (where === "query" && input.value !== "") query.append(name, input.value);
  }
  return query.size ? `${path}?${query}` : path;
}

function payload() {
  if (!current.body) return {};
  const text = $("body").value.trim();
  if (current.body.type !== "multipart/form-data") {
    if (text) JSON.parse(text);
    return { body: text || undefined, type: "application/json" };
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(text ? JSON.parse(text) : {})) form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  if ($("file").files[0]) form.append("file", $("file").files[0]);
  return { body: form };
}

async function send() {
  let data;
  try {
    data = payload();
    $("body-error").hidden = true;
  } catch (error) {
    $("body-error").textContent = `This is not JSON: ${error.message}`;
    $("body-error").hidden = false;
    return;
  }
  const key = $("key").value.trim();
  const headers = key ? { authorization: `Bearer ${key}` } : { "x-csrf-token": csrf };
  if (data.type) headers["content-type"] = data.type;
  const started = performance.now();
  setRunning(new AbortController());
  $("response").hidden = false;
  $("response-body").textContent = "";
  $("status").textContent = "sending…";
  $("status").className = "badge";
  try {
    const credentials = key ? "omit" : "same-origin";
    const response = await fetch(address(), { method: current.method, headers, body: data.body, credentials, signal: running.signal });
    showHead(response, started);
    await showBody(response, started);
  } catch (error) {
    $("status").textContent = error.name === "AbortError" ? "stopped" : `failed: ${error.message}`;
  } finally {
    setRunning(null);
  }
}

function showHead(response, started) {
  $("status").textContent = `${response.status} ${response.statusText}`.trim();
  $("status").className = `badge ${response.ok ? "good" : "bad"}`;
  $("timing").textContent = `headers after ${Math.round(performance.now() - started)} ms`;
  $("headers").textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
}

async function showBody(response, started) {
  const type = response.headers.get("content-type") ?? "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    if (type.includes("event-stream")) $("response-body").textContent = text;
  }
  $("response-body").textContent = type.includes("json") ? pretty(text) : text;
  $("timing").textContent += `, whole after ${Math.round(performance.now() - started)} ms`;
  announce(`Answered with status ${response.status}`);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function curl() {
  const lines = [`curl -X ${current.method} '${location.origin}${address()}'`, `-H "Authorization: Bearer $OSSLO_API_KEY"`];
  if (current.body?.type === "application/json" && $("body").value.trim()) {
    lines.push(`-H 'Content-Type: application/json'`, `-d '${$("body").value.replaceAll("'", "'\\''")}'`);
  }
  return lines.join(" \\\n  ");
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
}

function make(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

$("filter").addEventListener("input", () => list($("filter").value));
$("reset-body").addEventListener("click", resetBody);
$("stop").addEventListener("click", () => running?.abort());
$("copy-curl").addEventListener("click", (event) => copyText(event.currentTarget, curl()));
$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
load().catch((error) => {
  $("endpoints").replaceChildren(make("p", "notice bad", `The list could not be read: ${error.message}`));
});
