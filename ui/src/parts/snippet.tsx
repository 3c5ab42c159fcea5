import { useState } from "preact/hooks";
import { call, type Deployment, type NewKey } from "../api";
import type { ChatBody } from "../chats/request";
import { Code, CopyButton, Tabs, Trouble } from "./index";
import { t } from "../i18n";
import { useAct } from "../load";
import { absoluteURL, Link } from "../router";
import { status } from "../session";
import { useStore } from "../store";

type Client = "curl" | "python" | "node" | "langchain";
export type Talk = "chat" | "text" | "embedding";

const EMBEDDING_TASKS = new Set(["feature-extraction", "sentence-similarity", "embedding"]);

/** What the model is asked for: chat, plain text when it has no template, or vectors when its task, or its file, says so. */
export function talkOf(task: string | null, of?: Pick<Deployment, "has_chat_template" | "capabilities">): Talk {
  if (task !== null && EMBEDDING_TASKS.has(task)) return "embedding";
  if (of === undefined || of.has_chat_template === null) return "chat"; // not looked at yet
  if (of.capabilities.includes("embeddings") && !of.capabilities.includes("completions")) return "embedding";
  return of.has_chat_template ? "chat" : "text";
}

function snippet(client: Client, talk: Talk, base: string, model: string, key: string, question: string): string {
  const said = JSON.stringify(question);
  if (client === "curl") {
    const [path, body] = {
      chat: ["chat/completions", `"messages": [{"role": "user", "content": ${said}}]`],
      text: ["completions", `"prompt": ${said}, "max_tokens": 64`],
      embedding: ["embeddings", `"input": [${said}]`],
    }[talk] as [string, string];
    return `curl ${base}/${path} \\\n  -H "Authorization: Bearer ${key}" \\\n  -H "Content-Type: application/json" \\\n  -d '{"model": "${model}",\n       ${body.replaceAll("'", "'\\''")}}'`;
  }
  if (client === "python") {
    const made = `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="${key}")\n`;
    if (talk === "embedding") return `${made}answer = client.embeddings.create(\n    model="${model}",\n    input=[${said}],\n)\nprint(answer.data[0].embedding)`;
    if (talk === "text") return `${made}answer = client.completions.create(\n    model="${model}",\n    prompt=${said},\n    max_tokens=64,\n)\nprint(answer.choices[0].text)`;
    return `${made}answer = client.chat.completions.create(\n    model="${model}",\n    messages=[{"role": "user", "content": ${said}}],\n    stream=True,\n)\nfor chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")`;
  }
  if (client === "node") {
    const ask = {
      chat: `const answer = await client.chat.completions.create({\n  model: "${model}",\n  messages: [{ role: "user", content: ${said} }],\n  stream: true,\n});\n${NODE_STREAM}`,
      text: `const answer = await client.completions.create({\n  model: "${model}",\n  prompt: ${said},\n  max_tokens: 64,\n});\nconsole.log(answer.choices[0].text);`,
      embedding: `const answer = await client.embeddings.create({\n  model: "${model}",\n  input: [${said}],\n});\nconsole.log(answer.data[0].embedding);`,
    }[talk];
    return `${nodeClient(base, key)}${ask}`;
  }
  if (talk === "embedding")
    return `from langchain_openai import OpenAIEmbeddings\n\nmodel = OpenAIEmbeddings(\n    base_url="${base}",\n    api_key="${key}",\n    model="${model}",\n    check_embedding_ctx_length=False,\n)\nprint(model.embed_query(${said}))`;
  const kind = talk === "text" ? "OpenAI" : "ChatOpenAI";
  return `from langchain_openai import ${kind}\n\nmodel = ${kind}(\n    base_url="${base}",\n    api_key="${key}",\n    model="${model}",\n)\nprint(model.invoke(${said})${talk === "text" ? "" : ".content"})`;
}

/** An ES module, as `node snippet.mjs` runs it beside `npm install openai`. */
function nodeClient(base: string, key: string): string {
  return `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });\n`;
}

const NODE_STREAM = `for await (const chunk of answer) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n}`;

const inQuotes = (text: string): string => text.replaceAll("'", "'\\''");

/** A whole conversation as a command or a program: both run as they stand once the key is in. */
function conversation(client: Client, base: string, key: string, body: ChatBody): string {
  if (client === "curl")
    return `curl ${base}/chat/completions \\\n  -H "Authorization: Bearer ${key}" \\\n  -H "Content-Type: application/json" \\\n  -d '${inQuotes(JSON.stringify(body, null, 2))}'`;
  if (client === "node")
    return `${nodeClient(base, key)}const answer = await client.chat.completions.create(${JSON.stringify({ ...body, stream: true }, null, 2)});\n${NODE_STREAM}`;
  // Strings, numbers and lists are written in JSON as Python writes them; there is nothing else in it.
  const fields = Object.entries(body).map(([name, value]) => `    ${name}=${JSON.stringify(value, null, 4).replaceAll("\n", "\n    ")},\n`);
  return `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="${key}")\nanswer = client.chat.completions.create(\n${fields.join("")}    stream=True,\n)\nfor chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")`;
}

/** How a program calls the model, with a key made on demand and shown once; with `body`, how it asks just this. */
export function Snippet({ model, talk, keyName, body }: { model: string; talk: Talk; keyName: string; body?: ChatBody }) {
  const base = useStore(status)?.openai_base_url ?? absoluteURL("v1").replace(/\/$/, "");
  const [client, setClient] = useState<Client>("curl");
  const [made, setMade] = useState<NewKey | null>(null);
  const act = useAct();
  const labels: Record<Client, string> = { curl: "curl", python: "Python", node: "Node", langchain: "LangChain" };
  const clients: Client[] = body === undefined ? ["curl", "python", "node", "langchain"] : ["curl", "python", "node"];
  const key = made?.token ?? "FUST_KEY";
  return (
    <div class="stack">
      <p>{talk === "chat" ? t("use.chat") : talk === "text" ? t("use.text") : t("use.embedding")}</p>
      {made === null ? (
        <div class="row">
          <button class="b go" type="button" disabled={act.busy} onClick={() => void act.run(async () => setMade(await call<NewKey>("fust/v1/tokens", { method: "POST", body: { name: keyName, scope: "read" } })))}>
            {t("use.make")}
          </button>
          <span class="small quiet">{t("use.make.note")}</span>
        </div>
      ) : (
        <div class="note calm" role="status">
          <p>{t("keys.once")}</p>
          <p class="row"><code class="token">{made.token}</code><CopyButton text={made.token} label={t("keys.copy")} /></p>
          <p><Link to="keys">{t("use.manage")}</Link></p>
        </div>
      )}
      {act.problem && <Trouble problem={act.problem} />}
      <Tabs<Client> tabs={clients.map((id) => ({ id, label: labels[id] }))} now={client} label={t("use.clients")} onPick={setClient} />
      {clients.map((id) => (
        <div key={id} role="tabpanel" id={`p-${id}`} aria-labelledby={`t-${id}`} hidden={id !== client}>
          <Code label={labels[id]} text={body === undefined ? snippet(id, talk, base, model, key, t("use.question")) : conversation(id, base, key, body)} />
        </div>
      ))}
      {made === null && <p class="small quiet">{t("use.placeholder")}</p>}
    </div>
  );
}
