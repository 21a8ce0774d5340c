--
-- Checks, queries run on both sides, criteria and the scorecard; and that the
-- cutover tells all of them at once.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.sale (id int PRIMARY KEY, day date NOT NULL, at timestamptz, state text NOT NULL, total numeric(10,2) NOT NULL);
CREATE TABLE new.sale (id int PRIMARY KEY, day date NOT NULL, at timestamptz, state text NOT NULL, total numeric NOT NULL);
INSERT INTO old.sale SELECT i, '2024-01-01'::date + i, '2024-01-01 12:00+00'::timestamptz + i * interval '1 day',
       CASE WHEN i % 3 = 0 THEN 'paid' ELSE 'open' END, i * 1.25 FROM generate_series(1, 60) AS i;
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'can it be trusted');
SELECT rehome.add_table('m', 'far.sale', 'new.sale');
-- A rule that is wrong: verification takes it for the truth.
SELECT rehome.map_column('m', 'new.sale', 'total', 'round(total, 1)');
SELECT rehome.map_column('m', 'new.sale', 'at', 'at + interval ''2 seconds''');
SET client_min_messages = notice;
SELECT * FROM rehome.run_checks('m');
SELECT * FROM rehome.run_queries('m');
SET client_min_messages = warning;

-- Bad input.
SELECT rehome.add_check('m', 'x', 'business', 'SELECT 1; DROP TABLE old.sale');
:code
SELECT rehome.add_check('m', 'x', 'business', target_sql => 'DELETE FROM new.sale');
:code
SELECT rehome.add_check('m', 'x', 'business', target_sql => 'SELECT 1 AS a INTO new.x');
:code
SELECT rehome.add_check('m', 'x', 'moral', target_sql => 'SELECT 1');
:code
SELECT rehome.add_check('m', 'x', 'business', target_sql => 'SELECT 1', key => '{a}');
:code
SELECT rehome.add_check('m', 'x', 'business', 'SELECT 1 AS a', 'SELECT 1 AS a', key => '{{a},{b}}');
:code
SELECT rehome.add_check('m', 'x', 'business', 'SELECT 1 AS a', 'SELECT 1 AS a', tolerance => '{"a": -1, "b": "often", "c": "5%", "d": "2 minutes"}');
:code
SELECT rehome.add_check('m', 'x', 'business', 'SELECT 1 AS a', 'SELECT 1 AS a', tolerance => '[]');
:code
SELECT rehome.add_check('m', 'x', 'business', 'SELECT 1', slice => 'none');
:code
SELECT rehome.drop_check('m', 'x');
:code
SELECT rehome.report_check('m', 'x', true);
:code
SELECT * FROM rehome.run_checks('m', names => '{x}');
:code
SELECT rehome.add_query('m', 'q', 'UPDATE old.sale SET total = 0');
:code
SELECT rehome.add_query('m', 'q', 'SELECT 1', factor => 0.5);
:code
SELECT rehome.drop_query('m', 'q');
:code
SELECT * FROM rehome.run_queries('m', repetitions => 0);
:code
SELECT * FROM rehome.run_queries('m', names => '{q}');
:code
SELECT rehome.set_criterion('m', 'beauty', '>', 1);
:code
SELECT rehome.set_criterion('m', 'correctness', '=>', 1);
:code
SELECT rehome.set_criterion('m', 'correctness', '>', 'NaN');
:code
SELECT rehome.drop_criterion('m', 'correctness');
:code

-- Times that would overflow wherever they are added to one.
SELECT rehome.add_check('m', 'x', 'business', target_sql => 'SELECT 1', valid_for => '300000 years');
:code
SELECT rehome.set_criterion('m', 'correctness', '>', 1, max_age => '-300000 years');
:code
SELECT rehome.set_schedule('m', '300000 years');
:code
SELECT count(*) FROM rehome.check_status;
-- What no definition can hold.
SELECT rehome.add_query('m', 'q', 'SELECT 1', factor => 'Infinity');
:code
SELECT rehome.add_query('m', 'q', 'SELECT 1', noise => 'Infinity');
:code
SELECT rehome.add_query('m', 'q', 'SELECT 1', factor => 'NaN', noise => 'NaN');
:code

-- Checks of all kinds.  Names are looked up as whoever stated them would.
SET search_path = new, public;
SELECT rehome.add_check('m', 'by state', 'business',
    'SELECT state, count(*) AS n, sum(total) AS total FROM old.sale GROUP BY state',
    'SELECT state, count(*) AS n, sum(total) AS total FROM sale GROUP BY state -- unqualified', '{state}');
RESET search_path;
SELECT rehome.add_check('m', 'by state, roughly', 'business',
    'SELECT state, count(*) AS n, sum(total) AS total FROM old.sale GROUP BY state;',
    'SELECT state, count(*) AS n, sum(total) AS total FROM new.sale GROUP BY state;', tolerance => '{"total": "1%"}');
SELECT rehome.add_check('m', 'last sale', 'business', 'SELECT max(at) AS at FROM old.sale', 'SELECT max(at) AS at FROM new.sale',
    tolerance => '{"at": "5 seconds"}');
SELECT rehome.add_check('m', 'last sale, exactly', 'business', 'SELECT max(at) AS at FROM old.sale', 'SELECT max(at) AS at FROM new.sale');
SELECT rehome.add_check('m', 'none is negative', 'application', target_sql => 'SELECT id FROM new.sale WHERE total < 0');
SELECT rehome.add_check('m', 'all is paid', 'application', 'SELECT id, state FROM old.sale WHERE state <> ''paid'' AND id < 5');
SELECT rehome.add_check('m', 'divides', 'application', target_sql => 'SELECT 1 / (id - id) FROM new.sale');
SELECT rehome.add_check('m', 'too long there', 'application', 'SELECT pg_sleep(60)');
SELECT rehome.add_check('m', 'too long here', 'application', target_sql => 'SELECT pg_sleep(60)');
SELECT rehome.add_check('m', 'no such key', 'application', 'SELECT 1 AS a', 'SELECT 1 AS a', '{b}');
CREATE FUNCTION new.sneaky() RETURNS int LANGUAGE plpgsql AS $$BEGIN DELETE FROM new.sale; RETURN 1; END$$;
SELECT rehome.add_check('m', 'writes here', 'application', target_sql => 'SELECT new.sneaky()');
SELECT rehome.add_check('m', 'writes there', 'application', 'SELECT nextval(''old.counter'')');
CREATE SEQUENCE old.counter;
-- Values that cannot be compared.
SELECT rehome.add_check('m', 'no such day', 'application', 'SELECT ''2024-99-99'' AS a', 'SELECT ''2024-01-01'' AS a', tolerance => '{"a": "1 day"}');
SELECT rehome.add_check('m', 'too long a time', 'application', 'SELECT date ''2024-01-02'' AS a', 'SELECT date ''2024-01-01'' AS a', tolerance => '{"a": "99999999999 days"}');
-- Columns of one name, of which only the last would be compared.
SELECT rehome.add_check('m', 'two sums', 'business', 'SELECT sum(id), sum(id) FROM old.sale', 'SELECT sum(id) + 1 AS sum, sum(id) FROM new.sale');
SELECT rehome.add_check('m', 'billing', 'integration', description => 'the billing system reads the target');
SELECT rehome.add_check('m', 'by state', 'business', 'SELECT 1', 'SELECT 1');
:code
-- Not before there is something to compare.
SELECT * FROM rehome.run_checks('m');
:code
SET rehome.copy_workers = 0;
CALL rehome.copy('m');
SELECT missing, extra, differing, ok FROM rehome.verify('m', mode => 'rows');
SET rehome.check_timeout = 1000;
-- A table of the session does not pass for one of the schema.
CREATE TEMP TABLE sale AS SELECT 'open' AS state, 0 AS total;
SELECT slice, "check", layer, status, source_rows, target_rows, differences, message FROM rehome.run_checks('m');
DROP TABLE pg_temp.sale;
SELECT rehome.drop_check('m', 'two sums');
SELECT e FROM rehome.check_status, jsonb_array_elements(evidence) AS e WHERE "check" = 'by state';
SELECT evidence FROM rehome.check_status WHERE "check" = 'all is paid';
SELECT count(*) FROM new.sale;
SELECT rehome.report_check('m', 'by state', true);
:code
SELECT status FROM rehome.check_status WHERE "check" = 'billing';
SELECT rehome.report_check('m', 'billing', true, '{"invoices": 12}');
SELECT status, evidence, reported FROM rehome.check_status WHERE "check" = 'billing';
UPDATE rehome.check_result SET at = at - interval '25 hours'
 WHERE check_id = (SELECT id FROM rehome.check_definition WHERE name = 'billing');
SELECT status FROM rehome.check_status WHERE "check" = 'billing';
SELECT rehome.drop_check('m', name) FROM rehome.check_definition
 WHERE name IN ('last sale, exactly', 'all is paid', 'divides', 'too long there', 'too long here', 'no such key', 'writes here', 'writes there',
                'no such day', 'too long a time');
RESET rehome.check_timeout;

-- Queries: what they return, and how long they take.
SELECT rehome.add_query('m', 'states', 'SELECT DISTINCT state FROM old.sale', 'SELECT DISTINCT state FROM new.sale', noise => 1000);
SELECT rehome.add_query('m', 'totals', 'SELECT id, total FROM old.sale WHERE id <= 4', 'SELECT id, total FROM new.sale WHERE id <= 4', noise => 1000);
SELECT rehome.add_query('m', 'twice', 'SELECT 1 AS a, 2 AS a UNION ALL SELECT 1, 2', 'SELECT 1 AS a, 2 AS a', noise => 1000);
SELECT rehome.add_query('m', 'sleepy', 'SELECT state FROM old.sale WHERE id = 1',
                        'SELECT state FROM new.sale WHERE id = 1 AND pg_sleep(0.05) IS NOT NULL');
SELECT rehome.add_query('m', 'broken', 'SELECT state FROM old.sale', 'SELECT status FROM new.sale');
SELECT query, status, source_rows, target_rows, rows_different, slower, source_ms > 0 AS timed, regexp_replace(message, '[0-9.]+ ms', '... ms', 'g') AS message
  FROM rehome.run_queries('m', repetitions => 1);
SELECT query, evidence->'only' AS only, evidence #>> '{target_plan,0,Plan,Node Type}' IS NOT NULL AS plans FROM rehome.query_status WHERE evidence IS NOT NULL;

-- The scorecard: what is not measured has not passed.
SELECT rehome.set_criterion('m', 'correctness', '>=', 99.99);
SELECT rehome.set_criterion('m', 'checks_failing', '=', 0, owner => 'ann');
SELECT rehome.set_criterion('m', 'queries_different', '=', 0);
SELECT rehome.set_criterion('m', 'queries_slower', '=', 0, blocking => false);
SELECT rehome.set_criterion('m', 'staleness', '<', 3600);
SELECT rehome.set_criterion('m', 'freeze_limit', '<=', 10);
SELECT rehome.set_criterion('m', 'freeze', '<=', 1);
SELECT rehome.set_criterion('m', 'check.by state', '=', 1);
SELECT metric, CASE WHEN metric NOT IN ('staleness', 'query_latency_ratio') AND metric !~ '^query\.' THEN value END AS value, comparator, threshold, verdict, blocking, owner,
       measured_at IS NOT NULL AS measured, regexp_replace(detail, '[0-9.]+ ms', '... ms', 'g') AS detail
  FROM rehome.scorecard('m');
CALL rehome.cutover('m');
:code
SELECT rehome.set_criterion('m', 'correctness', '>=', 99.99, max_age => '0 seconds');
SELECT metric, verdict FROM rehome.scorecard('m', 'main') WHERE metric = 'correctness';
SELECT rehome.set_criterion('m', 'correctness', '>=', 99.99);
SELECT * FROM rehome.scorecard('m', 'none');
:code

-- The rule repaired, it all passes.
SELECT rehome.drop_criterion('m', 'freeze');
SELECT rehome.drop_query('m', name) FROM rehome.query_definition WHERE name IN ('twice', 'broken');
SELECT rehome.report_check('m', 'billing', true);
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');
SELECT (SELECT count(*) FROM rehome.check_definition) + (SELECT count(*) FROM rehome.check_result) + (SELECT count(*) FROM rehome.query_definition)
     + (SELECT count(*) FROM rehome.query_result) + (SELECT count(*) FROM rehome.criterion) AS left_over;
TRUNCATE new.sale;
SELECT rehome.create_migration('m', 'loopback', 'it can be trusted');
SELECT rehome.add_table('m', 'far.sale', 'new.sale');
SELECT rehome.add_check('m', 'by state', 'business', 'SELECT state, sum(total) AS total FROM old.sale GROUP BY state',
    'SELECT state, sum(total) AS total FROM new.sale GROUP BY state', '{state}');
SELECT rehome.set_criterion('m', 'check.by state', '=', 1);
CALL rehome.copy('m');
CALL rehome.cutover('m');
:code
SELECT "check", status FROM rehome.run_checks('m');
CALL rehome.cutover('m');
SELECT state FROM rehome.status WHERE migration = 'm';
-- After the cutover too, the source following.
UPDATE new.sale SET total = total + 1 WHERE id = 1;
SELECT "check", status FROM rehome.run_checks('m');
SELECT status, count(*) FROM rehome.check_result GROUP BY status;
CALL rehome.complete('m');
SELECT rehome.drop_migration('m');

-- The same for a source in this database.
CREATE TABLE new.copy (LIKE old.sale INCLUDING ALL);
SELECT rehome.create_migration('here', NULL, 'a schema moves');
SELECT rehome.add_table('here', 'old.sale', 'new.copy');
CALL rehome.copy('here');
SELECT rehome.add_check('here', 'totals', 'business', 'SELECT sum(total) FROM old.sale', 'SELECT sum(total) FROM new.copy');
SELECT rehome.add_query('here', 'all', 'TABLE old.sale', 'TABLE new.copy', noise => 1000);
SELECT "check", status FROM rehome.run_checks('here');
SELECT query, status, source_rows FROM rehome.run_queries('here');
CALL rehome.complete('here');
SELECT rehome.drop_migration('here');

DROP SCHEMA old, far, new CASCADE;
DROP SCHEMA rehome_source CASCADE;
DROP SERVER loopback CASCADE;
TRUNCATE rehome.event, rehome.discrepancy, rehome.discrepancy_history;
