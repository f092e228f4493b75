// Node over SQL: how many grants each connection has, in which state, and when the next one ends.
//
//   npm ci && DATABASE_URL=postgresql://… node status.js
//
// The view token_status has no secret, so that a dashboard's role may read it and nothing else.
import pg from "pg";

const QUERY = `
  SELECT connection, state, count(*)::int AS grants, min(expires_at) AS next_expiry
  FROM token_status
  GROUP BY connection, state
  ORDER BY connection, state`;

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  const { rows } = await client.query(QUERY);
  for (const { connection, state, grants, next_expiry } of rows) {
    console.log(`${connection}: ${grants} ${state}, next expiry ${next_expiry?.toISOString() ?? "unknown"}`);
  }
} finally {
  await client.end();
}
