import type { RepoType } from "./api";

export interface CollectionItem {
  _id: string;
  /** `owner/name`, or the slug of a collection. */
  id: string;
  type: RepoType | "collection";
  position: number;
  note?: { text: string };
}
export interface Collection {
  slug: string;
  title: string;
  description: string;
  owner: { name: string };
  items: CollectionItem[];
  lastUpdated: string;
  private: boolean;
}

/** Where a collection's page is, below the root. */
export const collectionPlace = (slug: string): string => `collections/${slug.split("/").map(encodeURIComponent).join("/")}`;

/** Where the hub's API of a collection begins. */
export const collectionApi = (slug: string): string => `api/${collectionPlace(slug)}`;
