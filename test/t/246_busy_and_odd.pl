# A slice in which something is written all the time, and tables, names and
# settings that are not what one expects: changes are noticed, nothing is lost,
# and what only one side has stays there.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(
	dbname      => 'odd',
	role        => 1,
	source_conf => "standard_conforming_strings = off\nescape_string_warning = off\nbackslash_quote = on\n"
	  . "default_transaction_isolation = 'repeatable read'\nlc_monetary = 'C'",
	target_conf => "rehome.naptime = 20ms\nrehome.retry_max = 300ms");
my ($source, $target) = ($pair->source, $pair->target);
my $schema = q{
	CREATE TABLE item (id int PRIMARY KEY, v text, status text, left_over text);
	CREATE TABLE redirect (old text, new text, found int, tg_op text, rows text, PRIMARY KEY (old, new, found, tg_op));
	CREATE TABLE code (id int PRIMARY KEY, code text);
	CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
	CREATE TYPE mood AS ENUM ('ok', 'sad');
	CREATE TABLE felt (id int PRIMARY KEY, mood %s);
	CREATE TABLE busy (id int PRIMARY KEY, n int);
	CREATE TABLE made (id int PRIMARY KEY, v text);};
$pair->sql_source(sprintf($schema, 'mood') . q{
	INSERT INTO felt SELECT i, CASE WHEN i % 2 = 0 THEN 'ok' ELSE 'sad' END::mood FROM generate_series(1, 50) AS i;
	INSERT INTO item SELECT i, 'i' || i, 's' || i FROM generate_series(1, 50) AS i;
	INSERT INTO redirect SELECT '/a' || i, '/b' || i, i, 'x' FROM generate_series(1, 10) AS i;
	INSERT INTO code VALUES (1, '123'), (2, 'd'), (3, 'A_1'), (4, 'AB1');
	INSERT INTO part SELECT i, 'p' || i FROM generate_series(1, 50) AS i;
	INSERT INTO made SELECT i, 'm' || i FROM generate_series(1, 50) AS i;
	INSERT INTO busy VALUES (1, 0);});
$pair->sql_target(sprintf($schema, 'text') . q{
	ALTER TABLE made ADD bucket int NOT NULL, DROP CONSTRAINT made_pkey, ADD PRIMARY KEY (id, bucket);
	ALTER TABLE item ADD note text, ADD seen timestamptz DEFAULT '2020-01-01';});
$pair->grant_source('public');
my @tables = qw(item redirect code part busy made felt);
$pair->import_foreign_schema('public', 'src', @tables);
$pair->sql_target(q{
	SELECT rehome.create_migration('o', 'src', 'odd things');
	SELECT rehome.add_table('o', format('src.%I', t)::regclass, t::regclass, columns => '{"note": null, "seen": null}') FROM unnest(ARRAY['item']) AS t;
	SELECT rehome.add_table('o', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['redirect', 'part', 'busy', 'felt']) AS t;
	SELECT rehome.add_table('o', 'src.code', 'code', filter => $$code ~ '^\d+$' OR code LIKE 'A\_%'$$);
	SELECT rehome.add_table('o', 'src.made', 'made', columns => '{"bucket": "id % 16"}');
	CALL rehome.start('o')});
ok($pair->wait_for_state('o', 'syncing'), 'in sync');
is($pair->sql_target('SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM code'), '1,3', 'a filter means the same, whatever the settings of the source');

sub paused { my ($table) = @_; return "SELECT bool_or(paused) FROM rehome.table_map WHERE target = '$table'::regclass" }

# Names that trigger functions have for something else.
is((sqlstate_of($source, q{INSERT INTO redirect VALUES ('/c', '/d', 1, 'y', 'z'); UPDATE redirect SET new = '/e' WHERE found = 2; DELETE FROM redirect WHERE found = 3}, 'odd'))[0],
	'00000', 'columns of the key called old, new, found and tg_op: writes go on');

# From here on something is written all the time.
my $writer = start_pgbench($source, "UPDATE busy SET n = n + 1 WHERE id = 1;\n", clients => 1, rate => 100, dbname => 'odd');
ok(wait_until($source, 'SELECT n > 20 FROM busy', undef, 'odd'), 'the slice is busy');
ok(wait_until($target, 'SELECT count(*) = 10 AND bool_or(new = $$/e$$) FROM redirect', undef, 'odd'), 'and they arrive');

# A key that is renamed meanwhile.
$pair->sql_source('ALTER TABLE redirect RENAME "found" TO lost');
ok(wait_until($source, q{SELECT pg_get_functiondef(t.tgfoid) LIKE '%lost%' FROM pg_trigger t WHERE t.tgrelid = 'redirect'::regclass AND t.tgname LIKE 'rehome_capture%insert'}, undef, 'odd'),
	'a key that is renamed is noticed, however busy the slice is');
is((sqlstate_of($source, q{INSERT INTO redirect VALUES ('/f', '/g', 1, 'y', 'z')}, 'odd'))[0], '00000', 'and writes go on');
ok(wait_until($target, paused('redirect'), undef, 'odd'), 'its table waits');
$pair->sql_source('ALTER TABLE redirect RENAME lost TO "found"');
$pair->sql_target(q{SELECT rehome.resume_table('o', 'redirect')});
ok(wait_until($target, 'SELECT count(*) = 11 FROM redirect', undef, 'odd'), 'and goes on');

# A label that is called differently, which no trigger tells.
$pair->sql_source(q{ALTER TYPE mood ADD VALUE 'glad'});
$pair->sql_source(q{ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'});
ok(wait_until($target, q{SELECT error LIKE 'invalid input value for enum%"fine"%' FROM rehome.status}, undef, 'odd'), 'a label that is called differently is noticed');
$pair->sql_target(q{ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'});
ok(wait_until($target, q{SELECT count(*) = 25 FROM felt WHERE mood = 'fine'}, undef, 'odd'), 'and arrives in all rows when this side has it');
is($pair->sql_target(q{SELECT detail ->> 'what' FROM rehome.drift WHERE kind = 'column rewritten'}), 'column mood, or its type, was defined anew: its values may be others', 'and on record');

$pair->sql_target(q{SELECT rehome.pause_table('o', 'felt')});
$pair->sql_source(q{ALTER TYPE mood RENAME VALUE 'sad' TO 'low'});
$pair->sql_target(q{ALTER TYPE mood RENAME VALUE 'sad' TO 'low'; SELECT rehome.resume_table('o', 'felt')});
ok(wait_until($target, q{SELECT count(*) = 25 FROM felt WHERE mood = 'low'}, undef, 'odd'), 'so is one that was while the table was paused');

# Values written anew, of the type they were, on either side.
$pair->sql_source(q{ALTER TABLE made ALTER v TYPE text USING v || '!'; ALTER TABLE part ALTER v TYPE text USING v || '!'});
ok(wait_until($target, q{SELECT (SELECT count(*) = 50 FROM made WHERE v LIKE '%!') AND (SELECT count(*) = 50 FROM part WHERE v LIKE '%!')}, undef, 'odd'), 'values that a change of type has written anew arrive');
$pair->sql_target(q{ALTER TABLE made ALTER v TYPE text USING v || '?'; ALTER TABLE part ALTER v TYPE text USING v || '?'});
ok(wait_until($target, q{SELECT (SELECT count(*) = 50 FROM made WHERE v LIKE '%!') AND (SELECT count(*) = 50 FROM part WHERE v LIKE '%!')}, undef, 'odd'), 'those of the target are put right');
$pair->sql_source('ALTER TABLE made ALTER v SET STATISTICS 50');
$pair->sql_target(q{CALL rehome.sync('o')});
# A file of its own, and later a definition, change no value either.
for my $side (qw(sql_source sql_target))
{
	$pair->$side("VACUUM FULL $_") for qw(made part_1);
	$pair->sql_target(q{CALL rehome.sync('o')});
	$pair->$side("ALTER TABLE $_ ALTER v SET STATISTICS 60") for qw(made part);
	$pair->sql_target(q{CALL rehome.sync('o')});
}
is($pair->sql_target(q{SELECT string_agg(side || ' ' || object, ', ' ORDER BY side, object) FROM rehome.drift WHERE kind = 'column rewritten' AND object ~ '[.]v$'}),
	'source public.made.v, source public.part.v, target public.made.v, target public.part.v', 'both are on record, and nothing else');

# A guard that is taken off.
$pair->sql_target('ALTER TABLE code DISABLE TRIGGER rehome_guard');
ok(wait_until($target, paused('code'), undef, 'odd'), 'so is a guard that is taken off');
$pair->sql_target(q{SELECT rehome.resume_table('o', 'code')});

# Another column takes the name; until that is noticed, its values are read.
$pair->sql_source(q{BEGIN; ALTER TABLE item RENAME status TO status_old; ALTER TABLE item RENAME left_over TO status; COMMIT;
	UPDATE item SET v = v || '!' WHERE id = 7});
ok(wait_until($target, paused('item'), undef, 'odd'), 'a column takes the name of another one: its table waits');
$pair->sql_target(q{
	ALTER FOREIGN TABLE src.item ALTER status OPTIONS (SET column_name 'status_old'), ALTER left_over OPTIONS (SET column_name 'status');
	SELECT rehome.resume_table('o', 'item')});
ok(wait_until($target, q{SELECT v = 'i7!' AND status = 's7' FROM item WHERE id = 7}, undef, 'odd'), 'when it goes on, no value of the wrong column stays')
  or diag($pair->sql_target('SELECT * FROM item WHERE id = 7'));

# What only the target has of a row stays, also when the table is read as a whole.
$pair->sql_target(q{SELECT rehome.set_drift_policy('o', 'record', 'item'); UPDATE item SET note = 'n' || id, seen = '2024-01-01' WHERE id <= 20; SELECT rehome.accept_drift('o')});
$pair->sql_source(q{BEGIN; CREATE TEMP TABLE kept AS TABLE item; TRUNCATE item; INSERT INTO item SELECT * FROM kept WHERE id <> 3; COMMIT});
ok(wait_until($target, 'SELECT count(*) = 49 FROM item', undef, 'odd'), 'a table that was truncated is read as a whole');
is($pair->sql_target('SELECT count(*) FROM item WHERE note IS NOT NULL AND seen = $$2024-01-01$$'), '19', 'and what only the target has of its rows stays');
$pair->sql_target(q{SELECT rehome.set_drift_policy('o', 'reject', 'item')});

# A partitioned table is replaced by one that is none.
$pair->sql_source(q{CREATE TABLE part_plain (LIKE part INCLUDING ALL); GRANT ALL ON part_plain TO rehome_src; INSERT INTO part_plain SELECT * FROM part});
$pair->sql_source(q{BEGIN; TRUNCATE part; ALTER TABLE part RENAME TO part_old; ALTER TABLE part_plain RENAME TO part; COMMIT});
ok(wait_until($target, paused('part'), undef, 'odd'), 'a table in the place of another one waits');
is($pair->sql_target('SELECT count(*) FROM part'), '50', 'and nothing of it is gone');
$pair->sql_source(q{BEGIN; ALTER TABLE part RENAME TO part_plain; ALTER TABLE part_old RENAME TO part; INSERT INTO part SELECT * FROM part_plain; COMMIT});
$pair->sql_target(q{SELECT rehome.resume_table('o', 'part')});
stop_pgbench($writer);
$pair->sql_target(q{CALL rehome.sync('o')});
is($pair->sql_target(q{SELECT count(*) FROM part}), '50', 'it goes on when it is back');

# A new partition has its own rows read, and no others, and gets its triggers before.
my $applied = q{SELECT rows_applied FROM rehome.status WHERE migration = 'o'};
my $before = $pair->sql_target($applied);
$pair->sql_target(q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (2000)});
$pair->sql_source(q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (2000); GRANT ALL ON part_2 TO rehome_src; INSERT INTO part VALUES (1500, 'later')});
ok(wait_until($target, 'SELECT count(*) = 51 FROM part', undef, 'odd'), 'a row of a new partition arrives');
$pair->sql_source(q{INSERT INTO part VALUES (1501, 'later still')});
ok(wait_until($source, q{SELECT count(*) = 2 FROM pg_trigger WHERE tgrelid = 'part_2'::regclass AND tgname LIKE 'rehome%truncate'}, undef, 'odd'), 'which gets all its triggers');
$pair->sql_target(q{CALL rehome.sync('o')}) for 1 .. 2;
is($pair->sql_target('SELECT count(*) FROM part'), '52', 'what comes later arrives as well');
is($pair->sql_target($applied) - $before, 2, 'and no other row was touched');
# one that brings rows, some of them from elsewhere, and goes through much before it is seen
$pair->sql_target(q{CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (2000) TO (5000); CREATE TABLE part_9 PARTITION OF part DEFAULT});
$pair->sql_target(q{SELECT rehome.pause('o')});
$pair->sql_source(q{
	CREATE TABLE part_9 PARTITION OF part DEFAULT; GRANT ALL ON part_9 TO rehome_src; INSERT INTO part SELECT i, 'by default ' || i FROM generate_series(9000, 9009) AS i});
$pair->sql_target(q{SELECT rehome.resume('o'); CALL rehome.sync('o')});
is($pair->sql_target('SELECT count(*) FROM part WHERE id >= 9000'), '10', 'a default partition');
$pair->sql_target(q{SELECT rehome.pause('o')});
$before = $pair->sql_target($applied);
$pair->sql_source(q{
	CREATE TABLE "Part 3" (v text, gone int, id int PRIMARY KEY) PARTITION BY LIST (id); ALTER TABLE "Part 3" DROP gone;
	CREATE TABLE part_3a PARTITION OF "Part 3" FOR VALUES IN (2000, 2001, 2002); CREATE TABLE part_3b PARTITION OF "Part 3" DEFAULT;
	GRANT ALL ON "Part 3", part_3a, part_3b TO rehome_src;
	INSERT INTO "Part 3" SELECT 'attached ' || i, i FROM generate_series(2000, 2019) AS i;
	BEGIN; ALTER TABLE part ATTACH PARTITION "Part 3" FOR VALUES FROM (2000) TO (5000);
	UPDATE part SET id = 2100 WHERE id = 9000; UPDATE part SET id = 9000 WHERE id = 2019; UPDATE part SET v = 'changed' WHERE id = 2002;
	DELETE FROM part WHERE id = 2001; COMMIT;
	UPDATE part SET id = 2001 WHERE id = 9001; DELETE FROM part_9 WHERE id = 9002; UPDATE part SET v = 'after' WHERE id = 2003; TRUNCATE part_3a});
$pair->sql_target(q{SELECT rehome.resume('o'); CALL rehome.sync('o')});
same_content($pair, ['part'], 'a partition attached with rows, and partitions of its own');
cmp_ok($pair->sql_target($applied) - $before, '<', 30, 'whose rows were read, and no others');
is($pair->sql_source(q{SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('part_3a'::regclass, 'part_3b'::regclass, '"Part 3"'::regclass) AND tgname LIKE 'rehome%truncate' AND tgenabled = 'O'}), '6', 'it has all its triggers');
$pair->sql_source('TRUNCATE part_3b');
$pair->sql_target(q{CALL rehome.sync('o')});
same_content($pair, ['part'], 'so that TRUNCATE of it is seen');
# it goes, is written to, and comes again
$pair->sql_target(q{SELECT rehome.pause('o')});
$pair->sql_source(q{ALTER TABLE part DETACH PARTITION part_9; UPDATE part_9 SET v = 'while it was detached'; ALTER TABLE part ATTACH PARTITION part_9 DEFAULT});
$pair->sql_target(q{SELECT rehome.resume('o'); CALL rehome.sync('o')});
same_content($pair, ['part'], 'a partition that was detached for a while');
$pair->sql_source(q{DROP TABLE "Part 3"; DELETE FROM part_9; DROP TABLE part_9});
$pair->sql_target(q{CALL rehome.sync('o')});
is($pair->sql_target('SELECT count(*) FROM part'), '52', 'gone again');
$before = $pair->sql_target($applied);
$pair->sql_source(q{DROP TABLE part_2});
$pair->sql_target(q{CALL rehome.sync('o')}) for 1 .. 2;
is($pair->sql_target('SELECT count(*) FROM part'), '50', 'and goes with it');
is($pair->sql_target($applied) - $before, 2, 'and nothing else is written');

# One that comes while a cutover waits for its locks.
my $builder = $source->background_psql('odd');
$builder->query_safe(q{BEGIN; CREATE TABLE part_4 PARTITION OF part FOR VALUES FROM (5000) TO (6000); GRANT ALL ON part_4 TO rehome_src; INSERT INTO part SELECT i, 'in time' FROM generate_series(5000, 5009) AS i});
$pair->sql_target(q{CREATE TABLE part_4 PARTITION OF part FOR VALUES FROM (5000) TO (6000)});
my $cutover = start_psql($target, q{SET rehome.lock_timeout = '60s'; CALL rehome.cutover('o', one_way => false)}, dbname => 'odd');
ok(wait_until($source, q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'part'::regclass AND NOT granted)}, undef, 'odd'), 'a cutover waits for somebody who makes a partition');
$builder->query_safe('COMMIT');
is(finish_psql($cutover)->{sqlstate}, '00000', 'and comes to its end');
$builder->quit;
same_content($pair, ['part'], 'with the rows of the new partition');
is((sqlstate_of($source, 'TRUNCATE part_4', 'odd'))[0], '25006', 'which is fenced as a whole');

# After the cutover a key that is computed and not restored is no obstacle to a comparison.
for my $mode (qw(hash rows))
{
	is((sqlstate_of($target, "SELECT bool_and(ok) FROM rehome.verify('o', mode => '$mode')", 'odd'))[0], '00000', "cut over: verified, $mode");
}
$pair->sql_target(q{UPDATE item SET note = 'after', v = 'after' WHERE id = 1; INSERT INTO item (id, v, note) VALUES (100, 'new', 'only here')});
# Partitions that are added there have their own rows read, too.
$pair->sql_source(q{CREATE TABLE part_5 PARTITION OF part FOR VALUES FROM (6000) TO (7000); GRANT ALL ON part_5 TO rehome_src});
$pair->sql_target(q{CALL rehome.sync('o')});
$before = $pair->sql_target($applied);
$pair->sql_target(q{CREATE TABLE part_5 (id int PRIMARY KEY, v text); INSERT INTO part_5 SELECT i, 'attached' FROM generate_series(6000, 6009) AS i;
	ALTER TABLE part ATTACH PARTITION part_5 FOR VALUES FROM (6000) TO (7000)});
$pair->sql_target(q{CALL rehome.sync('o')});
same_content($pair, ['part'], 'cut over: a partition attached with rows');
cmp_ok($pair->sql_target($applied) - $before, '<', 20, 'cut over: whose rows were read, and no others');
is($pair->sql_target(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'part_5'::regclass AND tgname LIKE 'rehome%truncate'}), '2', 'cut over: it has all its triggers');
$pair->sql_target(q{TRUNCATE part_5; CALL rehome.sync('o')});
same_content($pair, ['part'], 'cut over: so that TRUNCATE of it is seen');
$pair->sql_target(q{ALTER TABLE part DETACH PARTITION part_1; UPDATE part_1 SET v = 'while it was detached' WHERE id < 5; ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (1000);
	CALL rehome.sync('o')});
same_content($pair, ['part'], 'cut over: a partition that was detached for a while');
$pair->sql_target(q{CALL rehome.rollback('o'); CALL rehome.sync('o')});
is($pair->sql_target(q{SELECT string_agg(v || ' ' || note, ', ' ORDER BY id) FROM item WHERE id IN (1, 100)}), 'after after, new only here', 'rolled back: what only the target has of its rows stays');
$pair->sql_target(q{CALL rehome.cancel('o')});

# Triggers of the source that the role cannot keep from firing write what no batch brings.
my $audit = q{CREATE TABLE doc (id int PRIMARY KEY, v text); CREATE TABLE audit (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, doc int);};
$pair->sql_source($audit . q{
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN INSERT INTO public.audit (doc) VALUES (new.id); RETURN NULL; END$$;
	CREATE TRIGGER note AFTER INSERT ON doc FOR EACH ROW EXECUTE FUNCTION note(); INSERT INTO doc VALUES (1, 'a')});
$pair->sql_target($audit);
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(doc audit));
$pair->sql_target(q{
	SELECT rehome.create_migration('t', 'src', 'triggers at the source');
	SELECT rehome.add_table('t', 'src.doc', 'doc'); SELECT rehome.add_table('t', 'src.audit', 'audit');
	CALL rehome.start('t')});
ok($pair->wait_for_state('t', 'syncing'), 'in sync');
$pair->sql_target(q{CALL rehome.cutover('t'); INSERT INTO doc VALUES (2, 'b')});
$pair->sql_target(q{CALL rehome.rollback('t'); CALL rehome.sync('t')});
is($pair->sql_source('SELECT count(*) FROM audit WHERE doc = 2'), '1', 'a trigger of the source has fired for what was brought back');
same_content($pair, [qw(doc audit)], 'and what it wrote is at the target too');
$pair->sql_target(q{CALL rehome.cancel('t')});

# Partitions that come while the table is copied: one that the copy reads, and that is
# emptied before it has all its triggers, and one that it does not.
$pair->sql_source(q{CREATE TABLE log (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE log_0 PARTITION OF log FOR VALUES FROM (0) TO (100);
	INSERT INTO log SELECT i, 'old' FROM generate_series(1, 20) AS i; GRANT ALL ON log, log_0 TO rehome_src});
$pair->sql_target('CREATE TABLE log (id int PRIMARY KEY, v text)');
$pair->import_foreign_schema('public', 'src', 'log');
$pair->sql_target(q{SELECT rehome.create_migration('l', 'src', 'a log'); SELECT rehome.add_table('l', 'src.log', 'log')});
{
	my $copied = q{SELECT coalesce(sum(rows_applied), 0) FROM rehome.status WHERE migration = 'l'};
	my $lock = hold_lock($target, debug_lock(), 'odd');
	my $copy = start_psql($target, q{CALL rehome.copy('l')}, dbname => 'odd', debug_point => 'capture-installed:wait');
	wait_for_lock_waiter($target, debug_lock(), 'odd');
	$pair->sql_source(q{CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (100) TO (200); GRANT ALL ON log_1 TO rehome_src; INSERT INTO log SELECT i, 'copied' FROM generate_series(101, 110) AS i});
	$lock->quit;
	is(finish_psql($copy)->{sqlstate}, '00000', 'a partition that comes before the chunks are planned');
	is($pair->sql_target('SELECT count(*) FROM log'), '30', 'is copied');
	$pair->sql_source(q{TRUNCATE log_1; INSERT INTO log VALUES (150, 'anew')});
	$pair->sql_target(q{CALL rehome.sync('l')});
	same_content($pair, ['log'], 'and what becomes of it is seen');
	my $before = $pair->sql_target($copied);
	$pair->sql_source(q{CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (200) TO (300); GRANT ALL ON log_2 TO rehome_src; INSERT INTO log VALUES (250, 'after')});
	$pair->sql_target(q{CALL rehome.sync('l')});
	same_content($pair, ['log'], 'one that comes later, too');
	is($pair->sql_target($copied) - $before, 1, 'without the rest of the table');
	$pair->sql_target(q{CALL rehome.cancel('l')});
}

# Partitions that are elsewhere.
$pair->sql_source(q{
	CREATE EXTENSION postgres_fdw; CREATE SERVER cold FOREIGN DATA WRAPPER postgres_fdw;
	CREATE TABLE tide (id int NOT NULL, v text) PARTITION BY RANGE (id);
	CREATE TABLE tide_1 PARTITION OF tide FOR VALUES FROM (0) TO (10);
	CREATE FOREIGN TABLE tide_2 PARTITION OF tide FOR VALUES FROM (10) TO (20) SERVER cold;
	GRANT ALL ON tide, tide_1, tide_2 TO rehome_src});
$pair->sql_target('CREATE TABLE tide (id int PRIMARY KEY, v text)');
$pair->import_foreign_schema('public', 'src', 'tide');
$pair->sql_target(q{SELECT rehome.create_migration('p', 'src', 'cold data'); SELECT rehome.add_table('p', 'src.tide', 'tide')});
like($pair->sql_target(q{SELECT string_agg(detail, ', ') FROM rehome.preflight('p') WHERE severity = 'error'}), qr/has partitions whose rows are on another server: (?:public\.)?tide_2/,
	'partitions on another server are told before');

done_testing();
