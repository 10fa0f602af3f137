// The playground's request as a program in three languages.

export function codeSample(language, body, base) {
  switch (language) {
    case "python":
      return python(body, base);
    case "javascript":
      return javascript(body, base);
    default:
      return curl(body, base);
  }
}

function curl(body, base) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return [
    `curl ${base}/v1/chat/completions \\`,
    `  -H "Authorization: Bearer $OSSLO_API_KEY" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  -d '${json}'`,
  ].join("\n");
}

function python(body, base) {
  const known = Object.entries(body).map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`);
  const print = body.stream
    ? ["for chunk in reply:", "    if chunk.choices:", '        print(chunk.choices[0].delta.content or "", end="", flush=True)']
    : ["print(reply.choices[0].message.content)"];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}/v1", api_key=os.environ["OSSLO_API_KEY"])`,
    "reply = client.chat.completions.create(",
    ...known,
    ")",
    ...print,
  ].join("\n");
}

function pythonValue(value, depth) {
  const pad = "    ".repeat(depth + 1);
  const close = "    ".repeat(depth);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((item) => `${pad}${pythonValue(item, depth + 1)},\n`).join("")}${close}]`;
  }
  if (typeof value === "object") {
    const items = Object.entries(value);
    if (!items.length) return "{}";
    return `{\n${items.map(([key, item]) => `${pad}${JSON.stringify(key)}: ${pythonValue(item, depth + 1)},\n`).join("")}${close}}`;
  }
  return JSON.stringify(value);
}

function javascript(body, base) {
  const json = JSON.stringify(body, null, 2);
  const print = body.stream
    ? ["for await (const chunk of reply) {", '  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");', "}"]
    : ["console.log(reply.choices[0].message.content);"];
  return [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${base}/v1", apiKey: process.env.OSSLO_API_KEY });`,
    `const reply = await client.chat.completions.create(${json});`,
    ...print,
  ].join("\n");
}
