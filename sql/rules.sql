--
-- Column rules: every kind, by itself and in steps, from a source that is
-- copied once; what they refuse; what add_rule refuses.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
CREATE SCHEMA old;
CREATE SCHEMA new;

-- The functions that rules are made of.
SELECT rehome.rule_control(E'a\x01b\tc\x7f', 'strip'), rehome.rule_control(E'a\x01b', 'space');
SELECT rehome.rule_control(E'a\x01b', 'refuse');
:code
SELECT rehome.rule_html('<p>Fish &amp; <b>chips</b><br>&#163;5 &euro;6</p><script>alert("x < 1")</script><!-- no --><ul><li>one<li title="a > b">two</ul> 1 < 2');
SELECT rehome.rule_entities('&lt;b&gt; &#x263A; &unknown; &; &#0; &amp;amp; AT&T');
SELECT v, rehome.rule_json(v, 'repair') FROM (VALUES
    ('{"a": 1}'), ('{''a'': ''it\''s'', b: [1, 2,], "c": NaN,}'), ('{"a": True, "b": None, /* x */ "c": undefined} // end'),
    ('{"z": "\u0000x\\u0000"}'), ('[{"open": [1, 2'), (E'{"a": "line\nend"}')) AS t(v);
SELECT rehome.rule_json('{"a": 1,}', 'refuse');
:code
SELECT rehome.rule_json('not json at all', 'repair');
:code
-- half of a surrogate pair is none that jsonb takes
SELECT rehome.rule_json('["\ud83d\ude00"]', 'refuse')::jsonb, rehome.rule_json('["\ud83d\u0000\ude00"]', 'repair')::jsonb;
SELECT rehome.rule_json('["\ud83d"]', 'repair');
:code
SELECT v, rehome.rule_number(v, '.', ',') FROM unnest(ARRAY['$1,234.56', '(12.50)', '-3', '7-', ' +1 ', 'EUR 1,000,000', '.5']) AS v;
SELECT rehome.rule_number('1.234,56 €', ',', '.'), rehome.rule_number('1 234,5', ',', ' ');
SELECT rehome.rule_number(v, '.', ',') FROM unnest(ARRAY['999999999999999999', '-1,234,567,890,123,456,789.50', '0.00000000000000000001', '-0', '7.']) AS v;
SELECT v, rehome.rule_number(v, '.', ',') FROM unnest(ARRAY['−5', '5−', '–5', '12,34,567.5', 'kr 5', '5 Kč', 'Rs. 5', 'US$5', 'R$ 5', '5 CHF', E'5\u00a0€', '1,234']) AS v;
SELECT rehome.rule_number('12.34.56', '.', ',');
:code
-- what is another number than its digits say
CREATE FUNCTION pg_temp.try_number(v text, OUT value numeric, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
    value := rehome.rule_number(v, '.', ',');
EXCEPTION WHEN SQLSTATE 'RH010' OR data_exception THEN
    error := SQLSTATE;
END $$;
SELECT v, t.* FROM unnest(ARRAY['5k', '5K', '1.5M', '50%', '50 ‰', '5 Mio', '5 MIO', '5 MRD', '50¢', '12,34', '1,5', '1234,567', '1,2345', '1,23,4', '(5', '5)', '(5))', '-(5)', '- -5', '5e3', '5x', '1 2', '1€2', '.', '']) AS v, pg_temp.try_number(v) AS t;
SELECT rehome.rule_number('1-2', '.', ',');
:code
SELECT rehome.rule_number('free', '.', ',');
:code
SELECT rehome.rule_unsigned(-1, 32), rehome.rule_unsigned(-1, 64), rehome.rule_unsigned(200, 8);
SELECT rehome.rule_unsigned(256, 8);
:code
SELECT rehome.rule_epoch(0, 1), rehome.rule_epoch(1700000000123, 1000), rehome.rule_epoch(-1.5, 1), rehome.rule_epoch(1700000000123456, 1000000);
SELECT rehome.rule_epoch(1e18, 1);
:code
SELECT rehome.rule_epoch('NaN', 1);
:code
SELECT v, rehome.rule_zero_date(v, 'none') FROM unnest(ARRAY['0000-00-00', '0000-00-00 00:00:00', '2020-00-15', '2020-01-15', '2000-10-20 00:00', 'x', '']) AS v;
SELECT v, rehome.rule_local_time(v, 'Europe/Berlin') AT TIME ZONE 'UTC' FROM unnest(ARRAY['2024-07-01 12:00', '2024-01-01 12:00', '2024-07-01T12:00:00Z', '2024-07-01T12:00:00+02:00', '2024-07-01 12:00 PST', '2024-07-01 12:00 America/New_York', 'infinity']) AS v;
SELECT rehome.rule_local_time('2024-07-01', 'Mars/Olympus');
:code
SELECT rehome.rule_local_time('no time', 'Europe/Berlin');
:code
SELECT '2024-07-01 12:00'::text::timestamptz AS utc_as_ever;
SELECT rehome.rule_range(5, 1, 3, 'clamp'), rehome.rule_range(0, 1, 3, 'clamp'), rehome.rule_range(9, 1, 3, 'null'), rehome.rule_range(9, 1, NULL, 'refuse');
SELECT rehome.rule_range('2024-01-01'::date, '1900-01-01', '2000-01-01', 'refuse');
:code
SELECT rehome.rule_valid(NULL::int, NULL, 'x > 0'), rehome.rule_valid(1, true, 'x > 0');
SELECT rehome.rule_valid(-1, false, 'x > 0');
:code
-- what is not said is no crash
SELECT rehome.rule_range(9, 1, 3, NULL);
:code
SELECT rehome.rule_valid(-1, false, NULL);
:code
SELECT rehome.rule_blank_to_null(E' \t\n') IS NULL, rehome.rule_blank_to_null(' a ');

-- A row of every kind.
CREATE TYPE new.grade AS ENUM ('low', 'high');
CREATE TABLE new.crosswalk (old_id int PRIMARY KEY, new_id uuid UNIQUE);
INSERT INTO new.crosswalk SELECT i, md5(i::text)::uuid FROM generate_series(1, 3) AS i;
CREATE TABLE old.t (id int PRIMARY KEY, narrow int, gr text, status text, zero text, local timestamp, millis bigint,
                    html text, doc text, money text, uns int, flag text, parent int, blank text, far text, name text);
INSERT INTO old.t VALUES
    (1, 7, 'L', 'new', '0000-00-00 00:00:00', '2024-07-01 12:00', 1700000000123, '<b>Fish</b> &amp; chips', '{''a'': 1,}', '$1,234.50', -1, 'ja', 1, '  ', '9999-12-31', E'  Zoe\u0308\x01 '),
    (2, NULL, 'H', 'old', '2020-02-29 10:00:00', '2024-01-01 12:00', 0, NULL, '[1]', '(3)', 5, '0', 3, 'x', '2500-01-01', 'b'),
    (3, 9, NULL, NULL, NULL, NULL, NULL, 'plain', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'c');
CREATE TABLE new.t (id bigint PRIMARY KEY, narrow smallint, gr new.grade, status text NOT NULL, zero timestamp, local timestamptz,
                    millis timestamptz, html text, doc jsonb, money numeric(12, 2), uns bigint, flag boolean, parent uuid,
                    blank text, far date, name varchar(10), note text DEFAULT 'made here', origin text, size int, extra int);
SELECT rehome.create_migration('m', NULL, 'rules of every kind');
SELECT rehome.add_table('m', 'old.t', 'new.t', columns => '{"gr": null, "doc": null, "money": null, "flag": null, "parent": null, "zero": null, "millis": null, "far": null, "status": "''x''"}');
SELECT rehome.add_rule('m', 'new.t', 'narrow', 'cast');
SELECT rehome.add_rule('m', 'new.t', 'gr', 'value_map', '{"map": {"L": "low", "H": "high"}}');
SELECT rehome.add_rule('m', 'new.t', 'status', 'steps', '[{"kind": "null", "null_to": "none"}, {"kind": "text", "case": "upper"}, {"kind": "value_map", "map": {"OLD": "done"}, "unlisted": "keep"}]');
SELECT rehome.add_rule('m', 'new.t', 'zero', 'timestamp', '{"zero": "null"}');
SELECT rehome.add_rule('m', 'new.t', 'local', 'timestamp', '{"zone": "Europe/Berlin"}');
SELECT rehome.add_rule('m', 'new.t', 'millis', 'timestamp', '{"unit": "millis"}');
SELECT rehome.add_rule('m', 'new.t', 'html', 'text', '{"html": true}');
SELECT rehome.add_rule('m', 'new.t', 'doc', 'text', '{"json": "repair"}');
SELECT rehome.add_rule('m', 'new.t', 'money', 'number', '{"money": true}');
SELECT rehome.add_rule('m', 'new.t', 'uns', 'number', '{"unsigned": 32}');
SELECT rehome.add_rule('m', 'new.t', 'flag', 'number', '{"boolean": true}');
SELECT rehome.add_rule('m', 'new.t', 'parent', 'lookup', '{"table": "new.crosswalk", "from": "old_id", "to": "new_id"}', note => 'customers were numbered anew');
SELECT rehome.add_rule('m', 'new.t', 'blank', 'null', '{"blank_to_null": true, "to_null": ["-", "n/a"]}');
SELECT rehome.add_rule('m', 'new.t', 'far', 'timestamp', '{"sentinels": {"9999-12-31": null}, "max": "2100-01-01", "out_of_range": "clamp"}');
SELECT rehome.add_rule('m', 'new.t', 'name', 'text', '{"trim": "both", "control": "strip", "normalize": "nfc"}', validation => 'length(value) < 5');
SELECT rehome.add_rule('m', 'new.t', 'note', 'default');
SELECT rehome.add_rule('m', 'new.t', 'origin', 'constant', '{"value": "legacy"}');
SELECT rehome.add_rule('m', 'new.t', 'size', 'expression', '{"expression": "length(name)"}', inverse => NULL);
SELECT rehome.add_rule('m', 'new.t', 'extra', 'skip');
SELECT "column", kind, expression, inverse_column, inverse, on_error FROM rehome.column_map ORDER BY "column";
CALL rehome.copy('m');
\x on
SELECT * FROM new.t ORDER BY id;
\x off
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m', mode => 'rows');
SELECT count(*) FROM rehome.table_map WHERE rules_hash = rehome.rules_hash(id);

-- A number or a time is compared as one, whatever its text; a text that names its
-- zone is taken at its word; and what is less than a unit stays here.
CREATE TABLE old.m (id int PRIMARY KEY, n numeric(10,2), code numeric(4,1), f float8, d date, ts timestamp, said text, said_local text, at bigint, num text);
INSERT INTO old.m VALUES (1, 0, 1, 0, '9999-12-31', '9999-12-31', '2024-07-01T12:00:00+02:00', '2024-07-01T12:00:00+02:00', 1000, '+inf'),
    (2, 0.01, 2, '-0', '2024-01-01', '2024-01-01', '2024-07-01 12:00', '2024-07-01 12:00', 2000, '1');
CREATE TABLE new.m (id int PRIMARY KEY, n numeric(10,2), code text, f float8, d date, ts timestamp, said timestamptz, said_local timestamptz, at timestamptz, num numeric);
SELECT rehome.create_migration('alike', NULL, 'numbers and times');
SELECT rehome.add_table('alike', 'old.m', 'new.m', columns => '{"said": null, "said_local": null, "at": null, "num": null}');
SELECT rehome.add_rule('alike', 'new.m', 'n', 'null', '{"to_null": 0}');
SELECT rehome.add_rule('alike', 'new.m', 'code', 'value_map', '{"map": {"1": "one"}, "unlisted": "keep"}');
SELECT rehome.add_rule('alike', 'new.m', 'f', 'null', '{"to_null": ["NaN", "0"]}');
SELECT rehome.add_rule('alike', 'new.m', 'd', 'null', '{"to_null": "9999-12-31"}');
SELECT rehome.add_rule('alike', 'new.m', 'ts', 'timestamp', '{"sentinels": {"9999-12-31": null}}');
SELECT rehome.add_rule('alike', 'new.m', 'said', 'timestamp', '{"zero": "null"}');
SELECT rehome.add_rule('alike', 'new.m', 'said_local', 'timestamp', '{"zone": "Europe/Berlin"}');
SELECT rehome.add_rule('alike', 'new.m', 'at', 'timestamp', '{"unit": "millis"}');
SELECT rehome.add_rule('alike', 'new.m', 'num', 'number', '{"nan": "null"}');
-- What a value map has made is found by what the column has of it; two values that it has alike do not go back.
-- Null stays null, also where all that is not listed becomes a value.
CREATE TABLE old.v (id int PRIMARY KEY, size text, until text, twice text, other text, found int);
CREATE TABLE new.v (id int PRIMARY KEY, size numeric(10,2), until timestamptz, twice int, other text, found text);
SELECT rehome.create_migration('stored', NULL, 'values as they are stored');
SELECT rehome.add_table('stored', 'old.v', 'new.v', columns => '{"size": null, "until": null, "twice": null}');
SELECT rehome.add_rule('stored', 'new.v', 'other', 'value_map', '{"map": {"a": "b"}, "unlisted": {"value": "else"}}');
SELECT rehome.add_rule('stored', 'new.v', 'found', 'lookup', '{"table": "new.crosswalk", "from": "old_id", "to": "new_id", "unlisted": {"value": "none"}}');
SELECT rehome.add_rule('stored', 'new.v', 'size', 'value_map', '{"map": {"S": "1.0", "L": "2"}}');
SELECT rehome.add_rule('stored', 'new.v', 'until', 'value_map', '{"map": {"never": "9999-12-31", "soon": "2030-01-01 12:00+01"}}');
SELECT rehome.add_rule('stored', 'new.v', 'twice', 'value_map', '{"map": {"a": "1", "b": "01"}}');
SELECT "column", inverse_column, inverse FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id WHERE t.target = 'new.v'::regclass ORDER BY "column";
INSERT INTO old.v VALUES (1, 'S', 'never', 'a', 'a', 9), (2, 'L', 'soon', 'b', NULL, NULL), (3, NULL, NULL, NULL, '', 1);
CALL rehome.copy('stored');
SELECT id, other, found FROM new.v ORDER BY id;
SELECT format('SELECT %s AS size, %s AS until FROM new.v AS target ORDER BY id', s.inverse, u.inverse)
  FROM rehome.column_map s, rehome.column_map u WHERE s."column" = 'size' AND s.kind = 'value_map' AND u."column" = 'until' AND u.kind = 'value_map' \gexec
CALL rehome.cancel('stored');
SELECT rehome.drop_migration('stored');
SELECT rehome.add_rule('alike', 'new.m', 'n', 'null', '{"to_null": "n/a"}');
:code
SELECT rehome.add_rule('alike', 'new.m', 'said', 'timestamp', '{"zone": "Europe/Berlin", "format": "YYYY-MM-DD HH24:MI TZH"}');
:code
CALL rehome.copy('alike');
SET timezone = 'UTC';
SELECT * FROM new.m ORDER BY id;
RESET timezone;
SELECT target, missing, extra, differing, ok FROM rehome.verify('alike', mode => 'rows');
CALL rehome.cancel('alike');
SELECT rehome.drop_migration('alike');

-- A count since 1970 comes back by itself from a column that has all of it, and from no other.
CREATE TABLE old.c (id int PRIMARY KEY, at bigint, coarse bigint, fine bigint, part numeric, day bigint, clock bigint, said bigint);
CREATE TABLE new.c (id int PRIMARY KEY, at timestamp(0), coarse timestamptz(0), fine timestamptz(3), part timestamptz(3), day date, clock time, said text);
SELECT rehome.create_migration('counts', NULL, 'counts since 1970');
SELECT rehome.add_table('counts', 'old.c', 'new.c', columns => '{"at": null, "coarse": null, "fine": null, "part": null, "day": null, "clock": null, "said": null}');
SELECT rehome.add_rule('counts', 'new.c', c, 'timestamp', jsonb_build_object('unit', CASE WHEN c IN ('coarse', 'fine') THEN 'millis' ELSE 'seconds' END))
  FROM unnest('{at,coarse,fine,part,day,clock,said}'::name[]) AS c;
SELECT "column", inverse FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id WHERE t.target = 'new.c'::regclass AND kind = 'timestamp' ORDER BY 1;
INSERT INTO old.c VALUES (1, 90061, 90061000, 90061001, 90061.5, 90061, 90061, 90061);
CALL rehome.copy('counts');
SET timezone = 'UTC';
SELECT * FROM new.c;
RESET timezone;
CALL rehome.cancel('counts');
SELECT rehome.drop_migration('counts');

-- A lookup compares as the crosswalk's index does, whatever the search_path.
CREATE SCHEMA loose;
CREATE EXTENSION citext SCHEMA loose;
CREATE TABLE loose.country (code loose.citext PRIMARY KEY, name text);
INSERT INTO loose.country VALUES ('de', 'Germany');
SET search_path = pg_catalog;
SELECT rehome.rule_lookup('DE', 'loose.country', 'code', 'name');
RESET search_path;
DROP SCHEMA loose CASCADE;

-- What is refused, all of it at once.
SELECT rehome.create_migration('bad', NULL, 'rules that cannot be');
CREATE TABLE new.u (id bigint PRIMARY KEY, narrow smallint NOT NULL, name text);
SELECT rehome.add_table('bad', 'old.t', 'new.u');
SELECT rehome.add_rule('bad', 'new.u', 'name', 'text', '{"trim": "middle", "colour": "red", "html": "yes", "case": "lower"}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'no such kind');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'value_map', '{"map": {}}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'steps', '[{"kind": "text", "trim": "left"}, 7, {"kind": "skip"}]');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'lookup', '{"table": "new.nothing", "from": "a", "to": "b"}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'timestamp', '{"unit": "millis", "zone": "Mars/Olympus"}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'timestamp', '{"zero": {"value": null}, "sentinels": {"never": null, "soon": {"value": "2030-01-01"}}}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'narrow', 'cast', on_error => 'null');
:code
SELECT rehome.add_rule('bad', 'new.u', 'narrow', 'cast', on_error => 'default');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'value_map', '{"map": {"a": "b"}, "unlisted": "quarantine"}', on_error => 'fail');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'copy', validation => 'length(value)');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'copy', source_column => 'nothing');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'expression', '{"expression": "random()::text"}');
:code
SELECT rehome.add_rule('bad', 'new.u', 'name', 'expression', '{"expression": "name -- )"}');
SELECT rehome.add_rule('bad', 'new.u', 'name', NULL);
:code
SELECT rehome.set_table_rule('bad', 'new.u', on_error => 'null', on_delete => 'mark', delete_archive => 'old.t');
:code
-- A column is a mark, or comes from the source.
ALTER TABLE new.u ADD gone boolean;
SELECT rehome.set_table_rule('bad', 'new.u', on_delete => 'mark', delete_column => 'gone');
SELECT rehome.map_column('bad', 'new.u', 'gone', 'true');
:code
SELECT rehome.add_rule('bad', 'new.u', 'gone', 'constant', '{"value": true}');
:code
SELECT rehome.map_column('bad', 'new.u', 'gone', NULL);
-- Called without a rule that knows better.
SELECT rehome.rule_epoch(1, 0);
:code
SELECT rehome.rule_epoch(1, -1), rehome.rule_epoch(1, 3);
SELECT rehome.rule_unsigned(-1, 64), rehome.rule_unsigned(-1, 8);
SELECT rehome.rule_unsigned(-1, 128);
:code
SELECT rehome.rule_unsigned(-1, -2);
-- A text full of ampersands takes no longer than another.
SELECT length(rehome.rule_entities(repeat('&', 1000000) || '&amp;&#x1F600;&toolongforanentity;'));
DROP SCHEMA old CASCADE;
DROP SCHEMA new CASCADE;
CALL rehome.cancel('bad');
CALL rehome.complete('m');
SELECT rehome.drop_migration('m');
SELECT rehome.drop_migration('bad');
