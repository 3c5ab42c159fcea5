import type { Scope } from "./api";

export type Role = "read" | "write" | "admin" | "owner";
export const ROLES: Role[] = ["read", "write", "admin", "owner"];

export interface Organisation {
  name: string;
  display_name: string;
  created_at: string;
  members: number;
  role: Role | null;
  /** What the reader may do here. */
  may: string[];
}
export interface Member {
  name: string;
  full_name: string;
  role: Role;
  since: string;
}
export interface Person {
  name: string;
  full_name: string;
  is_admin: boolean;
  has_password: boolean;
  suspended: boolean;
  created_at: string;
  last_seen_at: string | null;
}
export interface Invitation {
  id: string;
  organisation: string | null;
  role: Role | null;
  note: string;
  created_by: string;
  created_at: string;
  expires_at: string;
  used_at: string | null;
  used_by: string | null;
  state: "open" | "used" | "expired";
  url?: string;
}
export interface Browser {
  id: string;
  current: boolean;
  device: string;
  agent: string;
  address: string;
  how: string;
  created_at: string;
  last_used_at: string;
  expires_at: string;
}
export interface FineKey {
  id: string;
  name: string;
  scope: Scope;
  prefix: string;
  created_at: string;
  last_used_at: string | null;
  expires_at: string | null;
  expired: boolean;
  /** Null on both: everything that the person may. */
  repos: string[] | null;
  models: string[] | null;
}
