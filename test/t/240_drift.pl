# Drift: writes to targets while the source has authority are refused, recorded
# or repaired, as the policy says; a table whose definition has changed is
# paused by itself, with what has changed, and goes on when it can; the other
# tables of the slice keep syncing meanwhile.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'drift', role => 1, tcp => 1);
my $schema = q{
	CREATE TABLE item (id int PRIMARY KEY, code text UNIQUE, price numeric(10,2), note text);
	CREATE TABLE other (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
	CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
	CREATE TABLE shifted (id int PRIMARY KEY, v text);};
$pair->sql_source($schema . q{
	INSERT INTO item SELECT i, 'c' || i, i * 1.10, 'note ' || i FROM generate_series(1, 200) AS i;
	INSERT INTO other SELECT i, i FROM generate_series(1, 100) AS i;
	INSERT INTO part SELECT i, '2020-06-01'::date + i, 'p' || i FROM generate_series(1, 300) AS i;
	INSERT INTO shifted SELECT i, 's' || i FROM generate_series(1, 50) AS i;});
$pair->sql_target($schema . q{CREATE VIEW written AS SELECT * FROM rehome.drift WHERE kind <> 'refused'; CREATE ROLE clerk LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk});
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(item other part shifted));
$pair->sql_target(q{
	SELECT rehome.create_migration('d', 'src', 'drift is looked for');
	SELECT rehome.add_table('d', 'src.item', 'item');
	SELECT rehome.add_table('d', 'src.other', 'other');
	SELECT rehome.add_table('d', 'src.part', 'part');
	SELECT rehome.add_table('d', 'src.shifted', 'shifted');
	SELECT rehome.map_column('d', 'shifted', 'id', 'id + 1000', inverse => 'id - 1000')});
is((sqlstate_of($pair->target, q{SELECT rehome.set_drift_policy('d', 'record')}, 'drift'))[0], 'RH001', 'no policy before there is anything to drift');
$pair->sql_target(q{CALL rehome.start('d')});
ok($pair->wait_for_state('d', 'syncing'), 'in sync');

my @tables = qw(item other part);
sub target { my ($sql) = @_; return $pair->sql_target($sql) }
sub caught_up { target(q{CALL rehome.sync('d')}); return }
sub as_clerk { my ($sql) = @_; return $pair->target->safe_psql('drift', $sql, extra_params => [ '-U', 'clerk' ]) }
sub verified
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(target(q{SELECT string_agg(target || ' ' || ok, ', ' ORDER BY target::text) FROM rehome.verify('d', mode => 'rows')}),
		'item true, other true, part true, shifted true', $name);
	return;
}

# --- writes to the target ----------------------------------------------------

is((sqlstate_of($pair->target, q{UPDATE item SET price = 0 WHERE id = 1}, 'drift'))[0], '25006', 'reject is how it begins');
is((sqlstate_of($pair->target, q{SELECT rehome.set_drift_policy('d', 'ignore')}, 'drift'))[0], '22023', 'no such policy');
is((sqlstate_of($pair->target, q{SELECT rehome.set_drift_policy('d', NULL)}, 'drift'))[0], '22004', 'nor none');
is((sqlstate_of($pair->target, q{SELECT rehome.set_drift_policy('d', 'record', 'pg_class')}, 'drift'))[0], '42704', 'nor of a table that is not mapped');
is(target(q{SELECT count(*) FROM written}), '0', 'nothing has drifted');

# What is refused is on record: a row a table, whose count grows.
sub refusals
{
	my ($side, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $query = "SELECT coalesce(string_agg(concat_ws(' ', object, target, detail ->> 'count', resolution), ', ' ORDER BY resolution NULLS LAST, object COLLATE \"C\"), 'none') FROM rehome.drift WHERE kind = 'refused' AND side = '$side'";
	wait_until($pair->target, "SELECT ($query) = '$expected'", undef, 'drift');
	is(target($query), $expected, $name);
	return;
}
refusals('target', 'public.item item 1', 'a write that was refused is on record');
is((sqlstate_of($pair->target, "SET application_name = 'old job'; $_", 'drift', extra_params => [ '-U', 'clerk' ]))[0], '25006', "refused: $_")
  for 'DELETE FROM item', 'TRUNCATE item', 'BEGIN; SAVEPOINT s; UPDATE item SET price = 0';
refusals('target', 'public.item item 4', 'one row a table, whose count grows');
is(target(q{SELECT drift FROM rehome.status}), '1', 'it is open');
is(target(q{SELECT count(*) FROM rehome.event WHERE kind = 'drift' AND message LIKE 'writes to public.item are refused at the target: 1 so far%'}), '1', 'an event says when it began');
is(target(q{SELECT value, detail FROM rehome.scorecard('d') WHERE metric = 'writes_refused'}), '4|4 of public.item at the target', 'it is measured');
like(PostgreSQL::Test::Utils::slurp_file($pair->target->logfile), qr/pg_rehome refuses a write to table "public\.item": role "clerk", application "old job", client \S+/, 'the log tells whose it was');

target(q{SELECT rehome.set_drift_policy('d', 'record', 'item')});
is((sqlstate_of($pair->target, q{UPDATE other SET v = 0}, 'drift'))[0], '25006', 'other tables are guarded as before');
as_clerk(q{SET application_name = 'night job'; UPDATE item SET price = 1.50 WHERE id = 7});
is(target(q{SELECT side, kind, object, target, key, old_row ->> 'price', new_row ->> 'price', role, application, policy, resolved_at IS NULL FROM written}),
	'target|update|public.item|item|{"id": 7}|7.70|1.50|clerk|night job|record|t', 'who has written what');
as_clerk(q{INSERT INTO item VALUES (900, 'new', 9, NULL); DELETE FROM item WHERE id = 8; UPDATE item SET id = 901 WHERE id = 9});
is(target(q{SELECT string_agg(concat_ws(' ', kind, key, old_row ->> 'id', new_row ->> 'id'), ', ' ORDER BY id) FROM written WHERE id > (SELECT min(id) FROM written)}),
	'insert {"id": 900} 900, delete {"id": 8} 8, update {"id": 9} 9 901', 'insert, delete, and an update of the key');
$pair->sql_source(q{UPDATE item SET note = 'from the source' WHERE id = 20; UPDATE other SET v = -1 WHERE id = 20});
caught_up();
is(target(q{SELECT (SELECT note FROM item WHERE id = 20), (SELECT v FROM other WHERE id = 20), (SELECT count(*) FROM written)}),
	'from the source|-1|4', 'batches go on, and are no drift');
is(target(q{SELECT price FROM item WHERE id = 7}), '1.50', 'recorded is not repaired');
is(target(q{SELECT target, missing, extra, differing, ok FROM rehome.verify('d') WHERE NOT ok}), 'item|2|2|1|f', 'verification sees it');
sub refused
{
	my ($sql) = @_;
	my ($ret, undef, $stderr) = $pair->target->psql('drift', $sql);
	return $ret ? $stderr : "$sql was not refused";
}
like(refused(q{CALL rehome.cutover('d')}), qr/4 writes to public\.item that nobody ordered\..*5 open discrepancies in public\.item/s, 'and cutover is refused');

# A write that is rolled back is none.
as_clerk(q{BEGIN; UPDATE item SET price = 3 WHERE id = 30; ROLLBACK});
is(target(q{SELECT count(*) FROM written}), '4', 'what is rolled back is not recorded');

is(target(q{SELECT rehome.repair_drift('d')}), '4', 'repair is ordered');
caught_up();
is(target(q{SELECT count(*) FILTER (WHERE resolution = 'repaired' AND resolved_at IS NOT NULL), count(*) FROM written}), '4|4', 'and noted');
verified('every row is what the source has');
same_content($pair, \@tables, 'the same on both sides after the repair');

target(q{SELECT rehome.set_drift_policy('d', 'repair')});
as_clerk(q{
	BEGIN; UPDATE item SET code = 'x' || id WHERE id BETWEEN 120 AND 180; UPDATE item SET code = 'c' || 300 - id WHERE id BETWEEN 120 AND 180; COMMIT;
	DELETE FROM part WHERE id < 40; UPDATE part SET day = '2021-05-05' WHERE id = 41; TRUNCATE part_2;
	INSERT INTO shifted VALUES (5, 'nobody'); UPDATE shifted SET v = 'x' WHERE id = 1010;
	UPDATE other SET v = 5 WHERE id = 20});
ok(wait_until($pair->target, q{SELECT count(*) = 0 FROM written WHERE resolved_at IS NULL}, undef, 'drift'), 'the worker repairs by itself');
verified('every row is what the source has');
same_content($pair, \@tables, 'the same on both sides after repairs by policy');
is(target(q{SELECT string_agg(DISTINCT kind || ' ' || object, ', ' ORDER BY kind || ' ' || object) FROM written WHERE target = 'part'::regclass}),
	'delete public.part_1, insert public.part_2, truncate public.part_2', 'writes to partitions are recorded with the partition');

# An uncommitted write cannot slip between.
my $writer = $pair->target->background_psql('drift');
$writer->query_safe(q{BEGIN; UPDATE other SET v = 77 WHERE id = 50});
caught_up();
$writer->query_safe('COMMIT');
$writer->quit;
ok(wait_until($pair->target, q{SELECT v = 50 FROM other WHERE id = 50}, undef, 'drift'), 'a write that commits after a batch is repaired by the next');

# Decided to stay: until the source says otherwise.
target(q{SELECT rehome.set_drift_policy('d', 'record', 'other')});
as_clerk(q{UPDATE other SET v = 5 WHERE id = 30});
is(target(q{SELECT rehome.accept_drift('d', 'other')}), '2', 'accepted: what was written, and what was refused before');
is(target(q{SELECT resolution FROM written ORDER BY id DESC LIMIT 1}), 'accepted', 'and noted');
is(target(q{SELECT differing FROM rehome.verify('d') WHERE target = 'other'::regclass}), '1', 'verification says so all the same');
$pair->sql_source(q{UPDATE other SET v = 6 WHERE id = 30});
caught_up();
verified('the source has the last word');

# The policy outlives a cutover and a rollback.
target(q{CALL rehome.cutover('d')});
my $before = target(q{SELECT count(*) FROM written});
as_clerk(q{UPDATE item SET price = 4 WHERE id = 4; TRUNCATE other; INSERT INTO other VALUES (1, 2)});
is(target(q{SELECT count(*) FROM written}), $before, 'writes to a target with authority are no drift');
target(q{CALL rehome.rollback('d')});
is($pair->sql_source(q{SELECT price FROM item WHERE id = 4}), '4.00', 'they are brought back');
as_clerk(q{UPDATE item SET price = 5 WHERE id = 4});
ok(wait_until($pair->target, q{SELECT price = 4 FROM item WHERE id = 4}, undef, 'drift'), 'and the policy is in force again');
target(q{SELECT rehome.set_drift_policy('d', 'reject')});
is((sqlstate_of($pair->target, q{TRUNCATE part_1}, 'drift'))[0], '25006', 'reject guards again');
is((sqlstate_of($pair->target, q{UPDATE item SET price = 0}, 'drift'))[0], '25006', 'rows as well');
caught_up();
verified('in sync at the end');

# --- definitions at the source -----------------------------------------------

# One test: only this table is paused, for this reason, and the others go on.
sub only_paused
{
	my ($table, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until($pair->target, q{SELECT bool_or(paused) FROM rehome.table_map}, undef, 'drift'), "$name: something is paused");
	my ($alive) = grep { $_ ne $table } qw(other item);
	my $key = $pair->sql_source("INSERT INTO $alive (id) SELECT max(id) + 1 FROM $alive RETURNING id") =~ s/\n.*//sr;
	ok(wait_until($pair->target, "SELECT count(*) = 1 FROM $alive WHERE id = $key", undef, 'drift'), "$name: $alive keeps syncing");
	is(target(q{SELECT target || ': ' || reason FROM rehome.table_map WHERE paused}), "$table: $reason", "$name: $table is paused");
	is(target(q{SELECT state, tables_paused, error IS NULL FROM rehome.status}), 'syncing|1|t', "$name: the slice is not");
	is(target(q{SELECT target, source_rows, ok, note FROM rehome.verify('d') WHERE NOT ok}), "$table||f|paused: $reason", "$name: verification says so");
	like(refused(q{CALL rehome.cutover('d')}), qr/Table \Qpublic.$table is paused: $reason\E/, "$name: cutover is refused");
	return;
}
sub resumed
{
	my ($table, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	target("SELECT rehome.resume_table('d', '$table')");
	caught_up();
	is(target(q{SELECT count(*) FROM rehome.table_map WHERE paused OR position IS NOT NULL}), '0', "$name: $table has caught up");
	verified("$name: the same again");
	return;
}
sub drift { return target(q{SELECT concat_ws('|', side, kind, object, detail ->> 'what', resolution) FROM written WHERE policy IS NULL ORDER BY id DESC LIMIT 1}) }

$pair->sql_source(q{ALTER TABLE item ADD COLUMN colour text; UPDATE item SET colour = 'red', price = 11 WHERE id = 11});
caught_up();
is(drift(), 'source|column added|public.item.colour|column colour of type text was added|compatible', 'a new column that nobody maps is noted');
is(target(q{SELECT price FROM item WHERE id = 11}), '11.00', 'and things go on');
$pair->sql_source(q{ALTER TABLE item ALTER colour TYPE varchar(9); ALTER TABLE item DROP COLUMN colour});
caught_up();
is(drift(), 'source|column dropped|public.item.colour|column colour was dropped|compatible', 'so is its end');
is(target(q{SELECT tables_paused FROM rehome.status}), '0', 'nothing is paused');

# Renamed, and renamed back: it goes on from where it was, by its change table.
$pair->sql_source(q{ALTER TABLE item RENAME note TO remark; UPDATE item SET remark = 'under another name' WHERE id = 12; DELETE FROM item WHERE id = 13});
only_paused('item', 'at the source column note was renamed to remark', 'renamed');
is(drift(), 'source|column renamed|public.item.note|column note was renamed to remark', 'it is open');
like(target(q{SELECT detail ->> 'hint' FROM written ORDER BY id DESC LIMIT 1}), qr/SET column_name 'remark'.*rehome\.resume_table\('d', 'public\.item'\)/, 'with what to do');
like(refused(q{SELECT rehome.resume_table('d', 'item')}), qr/does not have what target public\.item is made of.*Column note does not exist any more/s, 'it cannot go on like this');
my $kept = $pair->sql_source(q{SELECT query_to_xml(format('SELECT count(*) FROM %s', c.oid::regclass), false, true, '')::text ~ '>[1-9]'
	FROM pg_class c JOIN pg_trigger t ON t.tgrelid = 'item'::regclass AND t.tgname LIKE 'rehome_fence%' AND t.tgname NOT LIKE '%truncate'
	WHERE c.relname = replace(t.tgname, 'rehome_fence', 'change')});
is($kept, 't', 'its changes stay in its change table');
$pair->sql_source(q{ALTER TABLE item RENAME remark TO note});
resumed('item', 'renamed back');
is(target(q{SELECT (SELECT note FROM item WHERE id = 12), (SELECT count(*) FROM item WHERE id = 13)}), 'under another name|0', 'with what was written meanwhile');

# Renamed for good: the foreign table is told.
$pair->sql_source(q{ALTER TABLE item RENAME note TO remark; UPDATE item SET remark = 'renamed for good' WHERE id = 14});
only_paused('item', 'at the source column note was renamed to remark', 'renamed for good');
target(q{ALTER FOREIGN TABLE src.item ALTER note OPTIONS (SET column_name 'remark')});
resumed('item', 'renamed for good');
is(target(q{SELECT note FROM item WHERE id = 14}), 'renamed for good', 'it is read under the new name');

$pair->sql_source(q{ALTER TABLE item ALTER price TYPE numeric(12,4) USING price + 0.0001; INSERT INTO item VALUES (500, 'c500', 1.2345)});
only_paused('item', 'at the source column price is of type numeric(12,4) instead of numeric(10,2)', 'retyped');
target(q{ALTER FOREIGN TABLE src.item ALTER price TYPE numeric(12,4)});
resumed('item', 'retyped');
is(target(q{SELECT price FROM item WHERE id = 500}), '1.23', 'values are cast');

$pair->sql_source(q{ALTER TABLE item DROP COLUMN remark});
only_paused('item', 'at the source column remark was dropped', 'dropped');
target(q{SELECT rehome.map_column('d', 'item', 'note', NULL); ALTER FOREIGN TABLE src.item DROP COLUMN note});
resumed('item', 'dropped');

$pair->sql_source(q{ALTER TABLE item DISABLE TRIGGER ALL; UPDATE item SET price = 99 WHERE id = 15; ALTER TABLE item DISABLE TRIGGER USER});
only_paused('item', 'at the source triggers of capture or fence are disabled', 'triggers disabled');
like(refused(q{SELECT rehome.resume_table('d', 'item')}), qr/capture and fence of public\.item cannot be put back.*ALTER TABLE public\.item ENABLE TRIGGER USER/s, 'only the owner can enable them');
$pair->sql_source(q{ALTER TABLE item ENABLE TRIGGER ALL});
resumed('item', 'triggers disabled');
is(target(q{SELECT price FROM item WHERE id = 15}), '99.00', 'what escaped is there');

$pair->sql_source(q{CREATE TABLE copy_of (LIKE item INCLUDING ALL); INSERT INTO copy_of SELECT id, code, 42 FROM item WHERE id < 50; DROP TABLE item; ALTER TABLE copy_of RENAME TO item;
	GRANT ALL ON item TO rehome_src});
only_paused('item', 'at the source triggers of capture or fence are missing: the table was replaced, or they were dropped', 'replaced');
resumed('item', 'replaced');
$pair->sql_source(q{UPDATE item SET price = 43 WHERE id = 16});
caught_up();
is(target(q{SELECT count(*), sum(price) FROM item}), $pair->sql_source(q{SELECT count(*), round(sum(price), 2) FROM item}), 'and changes are captured again');

$pair->sql_source(q{ALTER TABLE other RENAME TO others});
ok(wait_until($pair->target, q{SELECT paused FROM rehome.table_map WHERE target = 'other'::regclass}, undef, 'drift'), 'a table that is gone is paused');
is(target(q{SELECT reason FROM rehome.table_map WHERE paused}), 'at the source the table does not exist any more', 'with the reason');
like(refused(q{SELECT rehome.resume_table('d', 'other')}), qr/table public\.other does not exist at the source any more/, 'it cannot go on');
$pair->sql_source(q{ALTER TABLE others RENAME TO other});
resumed('other', 'gone and back');

# --- definitions at the target -----------------------------------------------

target(q{ALTER TABLE item ADD COLUMN here text; ALTER TABLE item ALTER code SET DEFAULT 'x'});
caught_up();
is(drift(), 'target|column added|public.item.here|column here of type text was added|compatible', 'a new column of the target is noted');
target(q{ALTER TABLE item RENAME code TO label});
only_paused('item', 'at the target column code was renamed to label', 'renamed here');
target(q{ALTER TABLE item RENAME label TO code});
resumed('item', 'renamed back here');
target(q{ALTER TABLE item ADD COLUMN must int NOT NULL DEFAULT 1; ALTER TABLE item ALTER must DROP DEFAULT});
only_paused('item', 'at the target column must of type integer was added', 'a column that must have a value');
target(q{ALTER TABLE item ALTER must SET DEFAULT 2});
resumed('item', 'with a default');
target(q{ALTER TABLE other DISABLE TRIGGER rehome_guard; UPDATE other SET v = 1234 WHERE id = 3});
only_paused('other', 'at the target the guard is missing or disabled, or does not see what is written by way of a parent, to tables that inherit from it, or by a subscription', 'guard disabled');
resumed('other', 'guard disabled');
is((sqlstate_of($pair->target, q{UPDATE other SET v = 0}, 'drift'))[0], '25006', 'it is on again');

# A column that was added is mapped, and one that is dropped is left out.
target(q{SELECT rehome.map_column('d', 'item', 'here', $$'from ' || code$$, note => 'added later'); SELECT rehome.recopy('d', 'item')});
is(target(q{SELECT kind, expression IS NOT NULL, note FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id WHERE target = 'item'::regclass AND "column" = 'here'}),
	'expression|t|added later', 'a column that was added later has a rule');
caught_up();
is(target(q{SELECT count(*) > 0 AND bool_and(here = 'from ' || code) FROM item}), 't', 'and is filled');
verified('a column that was added later');
target(q{SELECT rehome.add_rule('d', 'item', 'must', 'constant', params => '{"value": "7"}'); SELECT rehome.recopy('d', 'item')});
$pair->sql_source(q{INSERT INTO item (id, code, price) VALUES (777, 'c777', 7)});
caught_up();
is(target(q{SELECT must FROM item WHERE id = 777}), '7', 'so has another');
target(q{ALTER TABLE item DROP COLUMN here});
only_paused('item', 'at the target column here was dropped', 'dropped here');
like(refused(q{SELECT rehome.map_column('d', 'item', 'here', $$'x'$$)}), qr/column "here" of "item" does not exist/, 'a column that is gone cannot be filled');
target(q{SELECT rehome.map_column('d', 'item', 'here', NULL)});
resumed('item', 'dropped here, and left out');

# A crash empties it, and nothing that is on record about its rows tells.
target(q{ALTER TABLE part_1 SET UNLOGGED});
only_paused('part', 'at the target public.part_1 is unlogged', 'unlogged');
is(drift(), 'target|unlogged|public.part|public.part_1 is unlogged', 'unlogged: it is open');
$pair->target->stop('immediate');
$pair->target->start;
is(target(q{SELECT (SELECT count(*) FROM part_1), (SELECT count(*) > 0 FROM part_2)}), '0|t', 'unlogged: a crash empties it');
is(join('|', (sqlstate_of($pair->target, q{SELECT rehome.resume_table('d', 'part')}, 'drift'))[ 0, 1, 3 ]),
	'55000|table public.part_1 is unlogged|ALTER TABLE public.part_1 SET LOGGED;', 'unlogged: it cannot go on like this');
target(q{ALTER TABLE part_1 SET LOGGED; CALL rehome.recover('d')});
resumed('part', 'logged again');

# --- by hand -----------------------------------------------------------------

target(q{SELECT rehome.pause_table('d', 'part', 'it is being looked at')});
$pair->sql_source(q{UPDATE part SET v = 'while paused' WHERE id = 100; CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
	GRANT ALL ON part_3 TO rehome_src; ALTER TABLE part_3 OWNER TO CURRENT_USER; INSERT INTO part VALUES (1, '2022-02-02', 'new partition')});
target(q{CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')});
only_paused('part', 'it is being looked at', 'by hand');
resumed('part', 'by hand');
is(target(q{SELECT count(*) FROM part WHERE v IN ('while paused', 'new partition')}), '2', 'with what was written meanwhile');

target(q{CALL rehome.cutover('d')});
is(target(q{SELECT state, tables_paused, drift FROM rehome.status}), 'cut_over|0|0', 'and all of it can be cut over');

# --- the old home ------------------------------------------------------------

is(target(q{SELECT count(*) FILTER (WHERE resolution = 'cut over'), count(*) FILTER (WHERE resolved_at IS NULL) FROM rehome.drift WHERE kind = 'refused' AND target IN ('item'::regclass, 'part'::regclass)}),
	'3|0', 'what was refused here is over');
$pair->sql_source(q{CREATE ROLE teller LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO teller});
sub old_home
{
	my ($sql) = @_;
	return (sqlstate_of($pair->source, "SET application_name = 'till'; $sql", 'drift', extra_params => [ '-U', 'teller' ]))[0];
}
is(old_home($_), '25006', "the old home refuses: $_")
  for 'UPDATE item SET price = 0', 'INSERT INTO item VALUES (7777)', 'TRUNCATE item', q{UPDATE part SET v = '' WHERE id = 100}, 'TRUNCATE part_2', 'UPDATE other SET v = 0 WHERE false';
refusals('source', 'public.item item 3, public.other other 1, public.part part 2', 'and that is on record');
like(PostgreSQL::Test::Utils::slurp_file($pair->source->logfile), qr/pg_rehome refuses a write to table "public\.part_2": role "teller", application "till", client \S+/, 'its log tells whose it was');
is(target(q{SELECT drift FROM rehome.status}), '3', 'these are open');

# A crash makes sequences skip values; that is no write.
$pair->source->stop('immediate');
$pair->source->start;
ok(wait_until($pair->target, q{SELECT bool_and((detail ->> 'counter')::int > 30) FROM rehome.drift WHERE kind = 'refused' AND side = 'source'}, undef, 'drift'), 'the sequences have skipped values');
refusals('source', 'public.item item 3, public.other other 1, public.part part 2', 'which nobody takes for writes');
is(old_home('DELETE FROM item'), '25006', 'one more');
refusals('source', 'public.item item 4, public.other other 1, public.part part 2', 'is one more');

is(target(q{SELECT rehome.accept_drift('d')}), '3', 'somebody has seen to it');
is(target(q{SELECT drift FROM rehome.status}), '0', 'nothing is open');
is(old_home('DELETE FROM item'), '25006', 'the next');
refusals('source', 'public.item item 4 accepted, public.other other 1 accepted, public.part part 2 accepted, public.item item 1', 'has a row of its own');
target(q{CALL rehome.rollback('d'); });
is(target(q{SELECT resolution FROM rehome.drift ORDER BY id DESC LIMIT 1}), 'rolled back', 'which ends with the authority of the target');
is(old_home('UPDATE item SET price = price'), '00000', 'the source is written again');
target(q{SELECT rehome.set_drift_policy('d', 'record', 'other')});
my $definition = target(q{SELECT rehome.export_migration('d')});
target(q{CALL rehome.cancel('d')});
is($pair->sql_source(q{SELECT to_regnamespace('rehome_source') IS NULL}), 't', 'nothing is left at the source');
is(target(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace}), '0', 'no sequence is left here');
is(target(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), '0', 'no trigger is left');

# A policy that is part of a definition is in force when the copy is done.
(my $quoted = $definition) =~ s/'/''/g;
target("SELECT rehome.drop_migration('d'); TRUNCATE item, other, part, shifted; SELECT rehome.import_migration('$quoted')");
is(target(q{SELECT string_agg(target || ' ' || drift_policy, ', ' ORDER BY id) FROM rehome.table_map}), 'item reject, other record, part reject, shifted reject', 'imported');
target(q{CALL rehome.start('d')});
ok($pair->wait_for_state('d', 'syncing'), 'in sync again');
as_clerk(q{UPDATE other SET v = 5 WHERE id = 1});
is(target(q{SELECT kind, target, key, policy FROM written WHERE resolved_at IS NULL AND policy IS NOT NULL}), 'update|other|{"id": 1}|record', 'what is written to the one is recorded');
is((sqlstate_of($pair->target, q{UPDATE item SET price = 0}, 'drift'))[0], '25006', 'what is written to another is refused');
target(q{CALL rehome.cancel('d')});
is(target(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), '0', 'no trigger is left once more');

done_testing();
