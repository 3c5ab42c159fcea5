import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface PopProps {
  open: boolean;
  setOpen: (open: boolean) => void;
  /** What a screen reader calls the button. */
  label: string;
  title?: string;
  face: ComponentChildren;
  wide?: boolean;
  children: ComponentChildren;
}

/** An icon button with a panel below it; Escape or a click elsewhere closes it, and Escape gives the focus back. */
export function Pop({ open, setOpen, label, title, face, wide, children }: PopProps) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return undefined;
    const onDown = (event: Event): void => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "Escape") return;
      setOpen(false);
      box.current?.querySelector("button")?.focus();
    };
    addEventListener("pointerdown", onDown);
    addEventListener("keydown", onKey);
    return () => {
      removeEventListener("pointerdown", onDown);
      removeEventListener("keydown", onKey);
    };
  }, [open]);
  return (
    <div class="account" ref={box}>
      <button class="b bare icon" type="button" aria-expanded={open} aria-label={label} title={title ?? label} onClick={() => setOpen(!open)}>
        {face}
      </button>
      {open && <div class={wide ? "pop wide" : "pop"}>{children}</div>}
    </div>
  );
}
