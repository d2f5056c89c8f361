-- Backchannel requests that wait for a person, by that person.
CREATE INDEX artefacts_waiting ON artefacts (grant_id, created_at) WHERE kind = 'backchannel' AND consumed_at IS NULL;
