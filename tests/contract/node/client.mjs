// The official OpenAI client for Node: one scenario a run, what it saw as one line of JSON.
// usage: node client.mjs BASE_URL KEY SCENARIO
import OpenAI from "openai";

const [, , baseURL, apiKey, scenario] = process.argv;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const model = "gpt-oss-20b";
const messages = [{ role: "user", content: "What is the capital of Norway?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", parameters, strict: true } }];
const responseTools = [{ type: "function", name: "get_weather", parameters, strict: true }];
const schema = {
  type: "object",
  properties: { name: { type: "string" }, country: { type: "string" } },
  required: ["name", "country"],
  additionalProperties: false,
};

const scenarios = {
  async chat() {
    const { data, response } = await client.chat.completions
      .create({ model, messages, max_tokens: 256 })
      .withResponse();
    return { text: data.choices[0].message.content, header: response.headers.get("x-osslo-model") };
  },

  async chat_stream() {
    const stream = client.chat.completions.stream({
      model,
      messages,
      stream_options: { include_usage: true },
    });
    let text = "";
    stream.on("content", (piece) => (text += piece));
    const whole = await stream.finalChatCompletion();
    return { text, whole: whole.choices[0].message.content, tokens: whole.usage.total_tokens };
  },

  async chat_tools() {
    const first = await client.chat.completions.create({ model, messages, tools });
    const message = first.choices[0].message;
    const call = message.tool_calls[0];
    const result = { role: "tool", tool_call_id: call.id, content: "12" };
    const second = await client.chat.completions.create({
      model,
      messages: [...messages, message, result],
      tools,
    });
    return { ...call.function, text: second.choices[0].message.content };
  },

  async chat_structured() {
    const format = { type: "json_schema", json_schema: { name: "city", schema, strict: true } };
    const reply = await client.chat.completions.parse({ model, messages, response_format: format });
    return reply.choices[0].message.parsed ?? JSON.parse(reply.choices[0].message.content);
  },

  async responses() {
    const reply = await client.responses.create({ model, input: "Hi", instructions: "Be brief." });
    const again = await client.responses.retrieve(reply.id);
    const gone = await client.responses.delete(reply.id).then(() => "deleted");
    return { text: reply.output_text, again: again.output_text, gone };
  },

  async responses_stream() {
    const stream = client.responses.stream({ model, input: "Hi" });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    const whole = await stream.finalResponse();
    return { text, whole: whole.output_text, status: whole.status };
  },

  async responses_tools() {
    const first = await client.responses.create({ model, input: messages, tools: responseTools });
    const call = first.output.find((item) => item.type === "function_call");
    const second = await client.responses.create({
      model,
      previous_response_id: first.id,
      input: [{ type: "function_call_output", call_id: call.call_id, output: "12" }],
      tools: responseTools,
    });
    return { name: call.name, arguments: call.arguments, text: second.output_text };
  },

  async completions() {
    const reply = await client.completions.create({ model, prompt: "Once", max_tokens: 8 });
    return { text: reply.choices[0].text };
  },

  async errors() {
    const seen = [];
    const wrong = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
    const tries = [
      () => wrong.chat.completions.create({ model, messages }),
      () => client.chat.completions.create({ model: "nonesuch", messages }),
      () => client.chat.completions.create({ model, messages, temperature: 9 }),
    ];
    for (const attempt of tries) {
      await attempt().catch((error) => seen.push([error.constructor.name, error.code, error.param]));
    }
    return seen;
  },

  async error_in_stream() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    let text = "";
    try {
      for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    } catch (error) {
      return { text, error: error.message, name: error.constructor.name };
    }
    return { text };
  },

  async cancel() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) break; // leaving the loop aborts the request
    }
    return { aborted: stream.controller.signal.aborted };
  },

  // What a small model says is not judged, only its form.
  async stand_in() {
    const ask = { model, messages, max_tokens: 400, temperature: 0 };
    const whole = await client.chat.completions.create(ask);
    const streamed = await client.chat.completions.stream(ask).finalChatCompletion();
    const silent = { ...ask, reasoning_effort: "none" };
    const called = await client.chat.completions.create({
      ...silent,
      tools,
      tool_choice: "required",
    });
    const brief = { type: "string", maxLength: 12 };
    const small = { ...schema, properties: { name: brief, country: brief } };
    const format = { type: "json_schema", name: "city", schema: small, strict: true };
    const given = { model, max_output_tokens: 400, temperature: 0, reasoning: { effort: "none" } };
    const formed = await client.responses.create({ ...given, input: "Oslo?", text: { format } });
    const followed = await client.responses
      .stream({ ...given, input: "Why?", previous_response_id: formed.id })
      .finalResponse();
    const stream = await client.chat.completions.create({ ...ask, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.reasoning) break;
    }
    const long = client.chat.completions.create({ ...ask, max_tokens: 5000 });
    return {
      text: whole.choices[0].message.content,
      streamed: streamed.choices[0].message.content,
      call: JSON.parse(called.choices[0].message.tool_calls[0].function.arguments),
      city: JSON.parse(formed.output_text),
      followed: followed.status,
      aborted: stream.controller.signal.aborted,
      error: await long.catch((error) => error.constructor.name),
    };
  },
};

process.stdout.write(JSON.stringify(await scenarios[scenario]()) + "\n");
