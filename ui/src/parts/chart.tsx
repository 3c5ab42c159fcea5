import { useEffect, useRef, useState } from "preact/hooks";
import { compact, decimal, integer } from "../format";

export interface Line {
  name: string;
  points: [x: number, y: number][];
  /** What is looked at, what it is held against, or another run. */
  as: "subject" | "reference" | "past";
}

const MARGIN = { left: 46, top: 10, bottom: 24 };

/** Round values that span [least, most], about `count` of them. */
export function ticks(least: number, most: number, count: number): number[] {
  const span = most - least || Math.abs(most) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((it) => it * power >= rough) ?? 10) * power;
  const found: number[] = [];
  for (let at = Math.floor(least / step); at * step < most + step; at += 1) found.push(at * step);
  return found;
}

function figure(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(0);
  if (size >= 1e6) return compact(value);
  return size >= 1000 ? integer(value) : decimal(value, size < 0.1 ? 4 : size < 10 ? 2 : 0);
}

interface Chart {
  lines: Line[];
  /** What the picture shows, in words. */
  label: string;
  height?: number;
  /** How a value of the y axis is written. */
  write?: (value: number) => string;
}

/** Lines over a common x, each named where it ends. */
export function LineChart({ height = 280, write = figure, ...more }: Chart) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    if (box.current) watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return <div class="chartbox" ref={box} style={{ minHeight: height }}>{width > 0 && <Drawing {...more} write={write} width={width} height={height} />}</div>;
}

function Drawing({ lines, label, width, height, write }: Required<Chart> & { width: number }) {
  const drawn = lines.filter((it) => it.points.length > 0);
  const all = drawn.flatMap((it) => it.points);
  if (all.length === 0) return null;
  const named = drawn.length > 1;
  const right = named ? Math.min(150, 12 + 7 * Math.max(...drawn.map((it) => it.name.length * (/[\u4e00-\u9fff]/.test(it.name) ? 1.8 : 1)))) : 12;
  const [ys, xs] = [all.map(([, y]) => y), all.map(([x]) => x)];
  const across = ticks(Math.min(...ys), Math.max(...ys), height < 160 ? 2 : 4);
  const [bottom, top] = [across[0] ?? 0, across.at(-1) ?? 1];
  const most = Math.max(...xs, 1);
  const x = (at: number): number => MARGIN.left + (at / most) * (width - MARGIN.left - right);
  const y = (at: number): number => MARGIN.top + ((top - at) / (top - bottom || 1)) * (height - MARGIN.top - MARGIN.bottom);
  const along = ticks(0, most, width < 420 ? 2 : 4).filter((at) => at <= most && Number.isInteger(at));
  const labels = named ? apart(drawn.map((it) => y(it.points.at(-1)?.[1] ?? 0))) : [];
  return (
    <svg class="chart" role="img" aria-label={label} viewBox={`0 0 ${width} ${height}`} width={width} height={height}>
      {across.map((at) => (
        <g key={at}>
          <line class="g" x1={MARGIN.left} x2={width - right} y1={y(at)} y2={y(at)} />
          <text x={MARGIN.left - 8} y={y(at) + 4} text-anchor="end">{write(at)}</text>
        </g>
      ))}
      {along.map((at) => <text key={at} x={x(at)} y={height - 5} text-anchor={at === 0 ? "start" : "middle"}>{integer(at)}</text>)}
      {drawn.map((it) => <path key={it.as + it.name} class={it.as} d={it.points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("")} />)}
      {drawn.filter((it) => it.as === "subject" && it.points.length <= 40).flatMap((it) => it.points.map(([a, b]) => <circle key={a} cx={x(a)} cy={y(b)} r="3" />))}
      {named && drawn.map((it, i) => <text key={it.as + it.name} class={it.as} x={width - right + 8} y={(labels[i] ?? 0) + 4}>{it.name}</text>)}
    </svg>
  );
}

/** Moves label positions apart, so that none covers another. */
function apart(wanted: number[]): number[] {
  const order = wanted.map((at, i) => [at, i] as const).sort((a, b) => a[0] - b[0]);
  const placed = [...wanted];
  let last = -Infinity;
  for (const [at, i] of order) last = placed[i] = Math.max(at, last + 15);
  return placed;
}
