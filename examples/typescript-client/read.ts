// Reads one token by a client whose types are made of the API's description.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const client = createClient<paths>({
  baseUrl: process.env.API_URL,
  headers: { Authorization: `Bearer ${process.env.API_KEY}` },
});

const { data, error } = await client.GET("/v1/users/{user_id}/tokens/{connection}", {
  params: {
    path: { user_id: "google-oauth2|1111", connection: "google-oauth2" },
    query: { min_ttl: 60 },
  },
});
if (error) throw new Error(`${error.type}: ${error.detail}`);
console.log(data.access_token);
