// The server's JSON, as its Go types are; docs/api.md says what it means.
export type * from './api';
