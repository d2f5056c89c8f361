-- Ending what began in a session, and forgetting what was allowed to a client, without reading whole tables.
CREATE INDEX grants_of_session ON grants (session) WHERE ended_at IS NULL;
CREATE INDEX consents_of_client ON consents (client_id);
