// The system page, renewed while it is looked at.

const root = document.getElementById("system");
const live = document.getElementById("live");

async function renew() {
  if (document.hidden) return;
  try {
    const response = await fetch(root.dataset.url, { credentials: "same-origin" });
    if (!response.ok) throw new Error(String(response.status));
    for (const model of (await response.json()).models) show(model);
    say("live", "good");
  } catch {
    say("no answer", "bad");
  }
}

function show(model) {
  const card = root.querySelector(`[data-model="${CSS.escape(model.id)}"]`);
  if (!card) return;
  card.querySelector('[data-field="hit_percent"]').textContent = model.hit_percent;
  for (const [name, value] of Object.entries(model.stats)) {
    const field = card.querySelector(`[data-field="${name}"]`);
    if (field) field.textContent = Number(value).toLocaleString("en");
    const meter = card.querySelector(`[data-meter="${name}"]`);
    if (meter) meter.value = value;
  }
}

function say(text, kind) {
  if (live.textContent !== text) live.textContent = text;
  live.className = `badge ${kind}`;
}

setInterval(renew, 2000);
