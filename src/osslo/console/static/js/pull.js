// Shows how far a download is; when it ends, the page says how.

const meter = document.getElementById("pull-meter");
const text = document.getElementById("pull-text");

async function renew() {
  const response = await fetch(meter.dataset.url, { credentials: "same-origin" });
  if (!response.ok) return;
  const pull = await response.json();
  if (!pull?.running) {
    location.reload();
    return;
  }
  meter.max = pull.total || 1;
  meter.value = pull.done;
  text.textContent = pull.text;
}

setInterval(() => renew().catch(() => {}), 1000);
