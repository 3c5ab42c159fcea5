import { useEffect, useRef, useState } from "preact/hooks";
import { call, Problem } from "./api";

/** Which models can be tuned here, and why the others cannot. */
export interface TunableBase {
  repo_id: string;
  family: string;
  parameters: number;
  memory_bytes: number;
  fits: boolean;
  reason: string;
}
export interface SampleView {
  tokens: string[];
  learned: boolean[];
  more: boolean;
  /** Which of two answers that are compared it is. */
  side: "" | "chosen" | "rejected";
}
export interface TunedRows {
  format: string;
  rows: number;
  kept: number;
  held_out: number;
  samples: number;
  tokens: number;
  learned_tokens: number;
  longest: number;
  left_out: { code: string; message: string; count: number; rows: string[] }[];
  /** What else is to be known of them, in words. */
  notes: string[];
}
/** What a tuning run decided; empty parts are not known yet. */
export interface Tuning {
  recipe: Record<string, unknown>;
  chosen: { name: string; value: string; why: string }[];
  rows: TunedRows | null;
  preview: SampleView[];
  forecast: Record<string, number>;
  trained: Record<string, number | null>;
}
export type Point = Record<string, number | null> & { step: number; loss: number };
export interface Sampled {
  step: number;
  items: { prompt: string; text: string }[];
}
export interface Course {
  points: Point[];
  samples: Sampled[];
}
interface Points {
  items: Point[];
  samples: Sampled[];
  next_offset: number;
  more: boolean;
}

const PAUSE_MS = 2000;

/** Follows the steps of a tuning run from its first; asks on until it is over. Null: nothing to follow. */
export function useCourse(id: string | null, over: boolean): Course {
  const [course, setCourse] = useState<Course>({ points: [], samples: [] });
  const done = useRef(over);
  done.current = over;
  useEffect(() => {
    setCourse({ points: [], samples: [] });
    if (id === null) return undefined;
    let offset = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let left = false;
    const points = new Map<number, Point>(); // a step that was done again counts as it was done last
    const samples = new Map<number, Sampled>();
    const look = async (): Promise<void> => {
      const last = done.current; // read before the answer: what comes after the end is in it
      let more = false;
      try {
        const fresh = await call<Points>(`fust/v1/tune/runs/${encodeURIComponent(id)}/points?offset=${offset}`);
        if (left) return;
        ({ next_offset: offset, more } = fresh);
        for (const it of fresh.items) points.set(it.step, it);
        for (const it of fresh.samples) samples.set(it.step, it);
        const inOrder = <T extends { step: number }>(of: Map<number, T>): T[] => [...of.values()].sort((a, b) => a.step - b.step);
        if (fresh.items.length + fresh.samples.length > 0) setCourse({ points: inOrder(points), samples: inOrder(samples) });
      } catch (error) {
        if (!(error instanceof Problem)) throw error; // the page says elsewhere that the server cannot be reached
        if (error.status === 404) return;
      }
      if (!left && (more || !last)) timer = setTimeout(() => void look(), more ? 0 : PAUSE_MS);
    };
    void look();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [id]);
  return course;
}

const KNOWN = new Set(["step", "loss", "held_out_loss", "tokens"]);

/** The curves of a run by name: every figure of its steps that changes. */
export function curves(points: Point[]): Map<string, [number, number][]> {
  const found = new Map<string, [number, number][]>();
  for (const point of points) {
    for (const [name, value] of Object.entries(point)) {
      if (typeof value !== "number" || KNOWN.has(name)) continue;
      const curve = found.get(name) ?? [];
      curve.push([point.step, value]);
      found.set(name, curve);
    }
  }
  return found;
}

export const lossOf = (points: Point[]): [number, number][] => points.map((it) => [it.step, it.loss]);
export const heldOutOf = (points: Point[]): [number, number][] => points.flatMap((it): [number, number][] => (typeof it["held_out_loss"] === "number" ? [[it.step, it["held_out_loss"]]] : []));
