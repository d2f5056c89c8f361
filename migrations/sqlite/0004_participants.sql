-- The clients that were told of a session, by that session.
CREATE INDEX artefacts_participants ON artefacts (grant_id, id) WHERE kind = 'participant';
