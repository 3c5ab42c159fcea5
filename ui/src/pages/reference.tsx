import { useMemo } from "preact/hooks";
import { Code, Head, Section, Trouble, Waiting } from "../parts";
import { t } from "../i18n";
import { useLoad } from "../load";
import { absoluteURL } from "../router";

/** As much of an OpenAPI 3.1 document as the page shows. */
interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  oneOf?: Schema[];
  anyOf?: Schema[];
  enum?: unknown[];
  additionalProperties?: boolean | Schema;
}
interface Parameter { name: string; in: string; required?: boolean; description?: string; schema?: Schema }
interface Content { content?: Record<string, { schema?: Schema }> }
interface Operation {
  summary?: string;
  description?: string;
  parameters?: Parameter[];
  requestBody?: Content;
  responses?: Record<string, Content & { description?: string }>;
}
interface Document { paths: Record<string, Record<string, Operation>>; components?: { schemas?: Record<string, Schema> } }

const METHODS = ["get", "post", "put", "patch", "delete"];

/** Follows references a few steps; a document that refers in circles ends as it is. */
function resolve(document: Document, schema: Schema | undefined): Schema | undefined {
  let now = schema;
  for (let step = 0; now?.$ref && step < 5; step += 1) now = document.components?.schemas?.[now.$ref.split("/").pop() ?? ""];
  return now;
}

/** The type in words: `string`, `integer or null`, `Deployment[]`. */
function typeName(schema: Schema | undefined): string {
  if (!schema) return "";
  if (schema.$ref) return (schema.$ref.split("/").pop() ?? "").replace(/^.*_/, "");
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return choices.map(typeName).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.items) return `${typeName(schema.items)}[]`;
  return Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type ?? "";
}

function bodyOf(content: Content | undefined): Schema | undefined {
  return Object.values(content?.content ?? {})[0]?.schema;
}

function Fields({ document, schema, title }: { document: Document; schema: Schema | undefined; title: string }) {
  const found = resolve(document, schema);
  const fields = Object.entries(found?.properties ?? {});
  if (fields.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <dl class="facts">
        {fields.map(([name, field]) => (
          <div key={name}>
            <dt><code>{name}</code>{found?.required?.includes(name) ? "" : <span class="quiet"> {t("reference.optional")}</span>}</dt>
            <dd><code>{typeName(field)}</code></dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Entry({ document, method, path, operation }: { document: Document; method: string; path: string; operation: Operation }) {
  const success = Object.entries(operation.responses ?? {}).find(([status]) => status.startsWith("2"));
  const url = absoluteURL(path.replace(/^\//, ""));
  const body = bodyOf(operation.requestBody);
  const sent = body ? " \\\n  -H 'Content-Type: application/json' -d '{…}'" : "";
  return (
    <details class="entry">
      <summary>
        <code><b>{method.toUpperCase()}</b> {path}</code> <span class="soft small">{operation.description ?? operation.summary}</span>
      </summary>
      {(operation.parameters ?? []).length > 0 && (
        <>
          <h3>{t("reference.parameters")}</h3>
          <dl class="facts">
            {operation.parameters?.map((parameter) => (
              <div key={parameter.name}>
                <dt><code>{parameter.name}</code> <span class="quiet">{parameter.in}</span></dt>
                <dd><code>{typeName(parameter.schema)}</code> {parameter.description}</dd>
              </div>
            ))}
          </dl>
        </>
      )}
      <Fields document={document} schema={body} title={t("reference.sends")} />
      <Fields document={document} schema={bodyOf(success?.[1])} title={t("reference.gets")} />
      <Code
        label={`curl ${path}`}
        text={`curl -X ${method.toUpperCase()} ${url} \\\n  -H "Authorization: Bearer $FUST_TOKEN"${sent}`}
      />
    </details>
  );
}

/** The Fust surface, drawn from the server's own OpenAPI document; nothing is fetched from elsewhere. */
export function ReferencePage() {
  const loaded = useLoad<Document>("fust/v1/schema/openapi.json");
  const document = loaded.data;
  const groups = useMemo(() => {
    const found = new Map<string, [string, string, Operation][]>();
    for (const [path, operations] of Object.entries(document?.paths ?? {})) {
      const group = path.split("/")[3] ?? "";
      for (const method of METHODS) {
        const operation = operations[method];
        if (operation) found.set(group, [...(found.get(group) ?? []), [method, path, operation]]);
      }
    }
    return [...found].sort(([one], [other]) => one.localeCompare(other));
  }, [document]);
  return (
    <div class="page wrap">
      <Head title={t("reference.title")} sum={t("reference.sum")} />
      {loaded.problem && <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />}
      {loaded.waiting && <Waiting what={t("waiting.reference")} />}
      <div class="stack-l">
        {document && groups.map(([group, entries]) => (
          <Section key={group} id={`h-${group}`} title={group}>
            {entries.map(([method, path, operation]) => (
              <Entry key={method + path} document={document} method={method} path={path} operation={operation} />
            ))}
          </Section>
        ))}
        {document && (
          <p class="small"><a href="fust/v1/schema/openapi.json">openapi.json</a></p>
        )}
      </div>
    </div>
  );
}
