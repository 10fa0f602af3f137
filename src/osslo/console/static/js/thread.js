// The playground's conversation on the page: messages, folded reasoning, tool calls, figures.

import { markdown } from "./markdown.js";

export class Thread {
  constructor(root, empty) {
    this.root = root;
    this.empty = empty;
  }

  clear() {
    for (const node of this.root.querySelectorAll(".message, .notice")) node.remove();
    this.empty.hidden = false;
  }

  user(text) {
    const bubble = make("div", "bubble", text);
    this.add(make("div", "message user", bubble));
  }

  assistant() {
    const view = new AnswerView();
    this.add(view.root);
    return view;
  }

  error(text) {
    const notice = make("p", "notice bad", text);
    notice.setAttribute("role", "alert");
    this.add(notice);
  }

  add(node) {
    this.empty.hidden = true;
    this.root.append(node);
    this.follow(true);
  }

  follow(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.root;
    if (always || scrollHeight - scrollTop - clientHeight < 120) this.root.scrollTop = scrollHeight;
  }
}

class AnswerView {
  constructor() {
    this.reasoningText = make("div");
    this.reasoningLabel = make("summary", "", "Reasoning");
    this.reasoning = make("details", "reasoning", this.reasoningLabel, this.reasoningText);
    this.reasoning.hidden = true;
    this.answer = make("div", "answer");
    this.calls = make("div");
    this.foot = make("div", "message-foot");
    this.root = make("div", "message assistant", this.reasoning, this.answer, this.calls, this.foot);
    this.cursor = make("span", "cursor");
    this.answer.append(this.cursor);
  }

  showReasoning(text, done) {
    this.reasoning.hidden = !text;
    this.reasoningText.textContent = text;
    this.reasoningLabel.textContent = done ? "Reasoning" : "Reasoning…";
  }

  showText(text, done) {
    this.answer.replaceChildren(markdown(text));
    if (!done) (this.answer.lastElementChild ?? this.answer).append(this.cursor);
  }

  showCalls(calls, onResult) {
    this.calls.replaceChildren(...calls.map((call) => callView(call, onResult)));
  }

  showFoot(parts) {
    this.foot.replaceChildren(...parts.map((part) => make("span", "", part)));
  }
}

function callView(call, onResult) {
  const head = make("div", "tool-call-head", `Calls ${call.name}`);
  const root = make("div", "tool-call", head, make("pre", "", pretty(call.arguments)));
  if (!onResult) return root;
  const input = make("input", "input mono");
  input.placeholder = "The tool's result";
  input.setAttribute("aria-label", `Result of ${call.name}`);
  const button = make("button", "button small", "Send result");
  button.type = "submit";
  const form = make("form", "tool-result", input, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    input.disabled = true;
    button.disabled = true;
    onResult(call, input.value);
  });
  root.append(form);
  return root;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function make(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}
