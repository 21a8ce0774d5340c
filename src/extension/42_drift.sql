-- Drift: writes to targets that nobody ordered, and tables that are not what
-- they were.

CREATE FUNCTION rehome.set_drift_policy(migration name, policy text, target regclass DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_set_drift_policy';
COMMENT ON FUNCTION rehome.set_drift_policy(name, text, regclass) IS
    'say what happens to writes to targets while the source has authority: reject, record or repair';

CREATE FUNCTION rehome.repair_drift(migration name, target regclass DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_repair_drift';
COMMENT ON FUNCTION rehome.repair_drift(name, regclass) IS
    'have the next batch undo the writes that were recorded; returns how many';

CREATE FUNCTION rehome.accept_drift(migration name, target regclass DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_accept_drift';
COMMENT ON FUNCTION rehome.accept_drift(name, regclass) IS
    'decide that the writes that were recorded stay; returns how many';

CREATE FUNCTION rehome.record_drift() RETURNS trigger LANGUAGE c
    AS 'MODULE_PATHNAME', 'rehome_record_drift';
COMMENT ON FUNCTION rehome.record_drift() IS 'keeps a write to a target in rehome.drift';

CREATE FUNCTION rehome.pause_table(migration name, target regclass, reason text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_pause_table';
COMMENT ON FUNCTION rehome.pause_table(name, regclass, text) IS
    'leave one table out of batches; the others of its slice go on';

CREATE FUNCTION rehome.resume_table(migration name, target regclass)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_resume_table';
COMMENT ON FUNCTION rehome.resume_table(name, regclass) IS
    'have the next batch bring a table that was paused to where the others are';
