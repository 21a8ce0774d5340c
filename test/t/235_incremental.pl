# Incremental verification: after one that looked at all rows, only the rows
# touched since are compared, whoever touched them, and whichever side has
# authority; what makes that impossible is said, and all rows are compared
# then. What no trigger has seen is found by a verification of all rows alone.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair   = new_pair(dbname => 'inc', role => 1, tcp => 1);
my $schema = q{
	CREATE TABLE item (id int PRIMARY KEY, code text UNIQUE, price numeric(10,2), note text);
	CREATE TABLE visit (who text, at timestamptz, mark uuid, v jsonb, PRIMARY KEY (at, who));
	CREATE TABLE shifted (id int PRIMARY KEY, v text);
	CREATE TABLE named (id int PRIMARY KEY, v text);};
$pair->sql_source($schema . q{
	INSERT INTO item SELECT i, 'c' || i, i * 1.10, 'note ' || i FROM generate_series(1, 20000) AS i;
	INSERT INTO visit SELECT 'w "' || i % 7, '2024-01-01'::timestamptz + i * '1 ms'::interval, md5(i::text)::uuid, jsonb_build_object('i', i) FROM generate_series(1, 3000) AS i;
	INSERT INTO shifted SELECT i, 's' || i FROM generate_series(1, 50) AS i;
	INSERT INTO named SELECT i, 'n' || i FROM generate_series(1, 50) AS i;});
$pair->sql_target($schema . q{CREATE ROLE clerk LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk;
	CREATE TABLE crosswalk (code text PRIMARY KEY, name text); INSERT INTO crosswalk SELECT 'n' || i, 'name ' || i FROM generate_series(1, 50) AS i});
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(item visit shifted named));
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a shop moves');
	SELECT rehome.add_table('m', 'src.item', 'item');
	SELECT rehome.add_table('m', 'src.visit', 'visit');
	SELECT rehome.add_table('m', 'src.shifted', 'shifted');
	SELECT rehome.add_table('m', 'src.named', 'named');
	SELECT rehome.map_column('m', 'shifted', 'id', 'id + 1000', inverse => 'id - 1000');
	SELECT rehome.add_rule('m', 'named', 'v', 'lookup', '{"table": "crosswalk", "from": "code", "to": "name"}', source_column => 'v');
	CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'in sync');

sub target { my ($sql) = @_; return $pair->sql_target($sql) }
sub as_clerk { my ($sql) = @_; return $pair->target->safe_psql('inc', $sql, extra_params => [ '-U', 'clerk' ]) }

# What a verification says of a table: missing, extra, differing, and how it
# went about it. The rows of a note are how many were compared.
sub told
{
	my ($table, %how) = @_;
	my $arguments = join ', ', map { "$_ => $how{$_}" } sort keys %how;
	my $told = target("SELECT concat_ws(' ', missing, extra, differing, coalesce(regexp_replace(note, ' since 2.*', ''), 'all'))"
		  . " FROM rehome.verify('m', target => '$table', $arguments)");
	return $told;
}
sub incremental { my ($table) = @_; return told($table, incremental => 'true') }
sub full { my ($table, $mode) = @_; return told($table, mode => q{'} . ($mode // 'hash') . q{'}) }

# --- table by table: what is broken off is gone on with ----------------------

my $lock = $pair->source->background_psql('inc');
$lock->query_safe('BEGIN; LOCK TABLE visit IN ACCESS EXCLUSIVE MODE');
my $call = start_psql($pair->target, q{CALL rehome.verify_tables('m')}, dbname => 'inc', name => 'tables');
ok(wait_until($pair->target, q{SELECT EXISTS (SELECT FROM rehome.full_pass WHERE table_map_id = (SELECT id FROM rehome.table_map WHERE target = 'item'::regclass))}, undef, 'inc'),
	'the first table is through');
ok(wait_until($pair->source, q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'visit'::regclass)}, undef, 'inc'), 'the second cannot be read');
target(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'tables'});
is(finish_psql($call)->{sqlstate}, '57014', 'broken off');
$lock->query_safe('ROLLBACK');
$lock->quit;
my ($status, undef, $said) = $pair->target->psql('inc', q{CALL rehome.verify_tables('m')});
is($status, 0, 'and called again');
is($said =~ s/ since 2.*//gr =~ s/^psql:<stdin>:1: //gmr, <<'END' =~ s/\n\z//r, '... it looks at all rows of the others only');
NOTICE:  public.item is equal; 0 rows touched
NOTICE:  public.visit is equal; all rows: no verification of all rows is on record
NOTICE:  public.shifted is equal; all rows: the key is computed
NOTICE:  public.named is equal; all rows: the rule of column v looks at more than the row
END
# A large table goes part by part.
my $pass  = q{SELECT coalesce(upto::text, 'end') || ' ' || rows FROM rehome.full_pass WHERE table_map_id = (SELECT id FROM rehome.table_map WHERE target = 'item'::regclass)};
my $parts = q{SET rehome.verify_part_rows = 3000; CALL rehome.verify_tables('m')};
sub item_parts { return (map { s/ since 2.*?(?=,|$)//gr =~ s/^psql:<stdin>:1: //r } grep { /public[.]item/ } split /\n/, ($pair->target->psql('inc', $parts))[2]) }
my $breaks = q{TRUNCATE rehome.full_pass;
	CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'that is all'; END$$;
	CREATE TRIGGER breaks BEFORE UPDATE ON rehome.full_pass FOR EACH ROW WHEN (NEW.upto > 7000) EXECUTE FUNCTION breaks()};
target($breaks);
sub behind { my ($sql) = @_; return target("BEGIN; ALTER TABLE item DISABLE TRIGGER ALL; $sql; ALTER TABLE item ENABLE ALWAYS TRIGGER rehome_guard; ALTER TABLE item ENABLE ALWAYS TRIGGER rehome_guard_truncate; COMMIT") }
is((sqlstate_of($pair->target, $parts, 'inc'))[0], 'P0001', 'broken off in its third part');
is(target($pass), '6001 6000', 'two were compared');
is(incremental('item') =~ s/ since.*//r, '0 0 0 all rows: the last verification of all rows has not come to its end', 'which is nothing to go on from');
target(q{DELETE FROM rehome.full_pass});
is((sqlstate_of($pair->target, $parts, 'inc'))[0], 'P0001', 'begun again, and broken off again');
target(q{DROP FUNCTION breaks CASCADE});
$pair->sql_source(q{UPDATE item SET note = 'meanwhile' WHERE id IN (5, 5000, 15000); INSERT INTO item VALUES (-5, 'below', 1, NULL), (25000, 'above', 1, NULL)});
behind(q{UPDATE item SET price = 0 WHERE id IN (6, 16000); DELETE FROM item WHERE id = 19999});
is_deeply([ item_parts() ], [
		'WARNING:  public.item differs: 0 rows missing, 0 extra, 1 differing; rows with id below 18001',
		'WARNING:  public.item differs; 20001 rows compared in parts, 2 differences on record' ],
	'it goes on where it was; what differs is found, by parts');
is(target(q{SELECT string_agg(kind || ' ' || (key ->> 'id'), ', ' ORDER BY key) FROM rehome.discrepancy WHERE resolved_at IS NULL}), 'differing 16000, missing 19999',
	'... and recorded; not what nobody has seen of rows that had been compared');
is(target($pass), 'end 20001', 'to the end');
behind(q{UPDATE item SET price = id * 1.10 WHERE id = 16000});
is_deeply([ item_parts() ], ['WARNING:  public.item differs: 1 rows missing, 0 extra, 0 differing; 7 rows touched'],
	'then it is gone on from, with all that was touched since the first part');
target(q{DELETE FROM rehome.full_pass});
is_deeply([ item_parts() ], [
		'WARNING:  public.item differs: 0 rows missing, 0 extra, 1 differing; rows with id below 3000',
		'WARNING:  public.item differs; 20002 rows compared in parts, 2 differences on record' ],
	'another one finds what was behind');
behind(q{UPDATE item SET price = id * 1.10 WHERE id = 6; INSERT INTO item VALUES (19999, 'c19999', 19999 * 1.10, 'note 19999')});
target(q{DELETE FROM rehome.full_pass});
is_deeply([ item_parts() ], ['NOTICE:  public.item is equal; 20002 rows compared in parts'], 'mended');
is(target(q{SELECT count(*) FROM rehome.discrepancy WHERE resolved_at IS NULL}), '0', '... and closed');
$pair->sql_source(q{DELETE FROM item WHERE id IN (-5, 25000)});
target(q{CALL rehome.sync('m')});

# What makes rows be others makes it begin again.
target($breaks);
is((sqlstate_of($pair->target, $parts, 'inc'))[0], 'P0001', 'once more broken off');
target(q{DROP FUNCTION breaks CASCADE});
$pair->sql_source(q{BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM item; TRUNCATE item; INSERT INTO item SELECT * FROM kept; COMMIT});
target(q{CALL rehome.sync('m')});
is_deeply([ item_parts() ], ['NOTICE:  public.item is equal; 20000 rows compared in parts'], 'a TRUNCATE meanwhile: all its rows again');

is((sqlstate_of($pair->target, q{BEGIN; CALL rehome.verify_tables('m')}, 'inc'))[0], '25001', 'not in a transaction block');
is((sqlstate_of($pair->target, q{CALL rehome.verify_tables('m', mode => 'looks')}, 'inc'))[0], '22023', 'in no other mode');
target(q{DELETE FROM rehome.full_pass});

is(incremental('item'), '0 0 0 all rows: no verification of all rows is on record', 'the first one looks at all rows');
is(incremental('item'), '0 0 0 0 rows touched', 'the next one has nothing to look at');
is(full('visit'), '0 0 0 all', 'so it is after one that was asked to look at all rows');
is(incremental('visit'), '0 0 0 0 rows touched', '... of another table');
full('shifted');
is(incremental('shifted'), '0 0 0 all rows: the key is computed', 'a computed key cannot be looked up');
full('named');
is(incremental('named'), '0 0 0 all rows: the rule of column v looks at more than the row', 'nor is the row all that counts where a table is looked into');

# --- the source changes ------------------------------------------------------

$pair->sql_source(q{
	UPDATE item SET note = 'changed' WHERE id BETWEEN 1 AND 10;
	DELETE FROM item WHERE id = 11;
	INSERT INTO item VALUES (30000, 'new', 1, NULL);
	UPDATE item SET id = 30001 WHERE id = 12;
	UPDATE item SET note = 'changed again' WHERE id BETWEEN 5 AND 10;
	UPDATE visit SET v = '{"i": "one"}' WHERE at = '2024-01-01 00:00:00.001Z'});
is(incremental('item'), '0 0 0 14 rows touched', 'rows that changed at the source: each once, and both keys of one that changed it');
is(incremental('visit'), '0 0 0 1 rows touched', '... by a key of several columns');
is(target(q{SELECT rows >= 20000 AND full_at < at FROM rehome.full_pass WHERE table_map_id = (SELECT id FROM rehome.table_map WHERE target = 'item'::regclass)}), 't',
	'when all rows were looked at, and how many, stays known');

# The worker has read its maps long before: it learns that keys are wanted.
$pair->sql_source(q{UPDATE item SET note = 'by the worker' WHERE id BETWEEN 101 AND 150});
ok(wait_until($pair->target, q{SELECT count(*) = 50 FROM item WHERE note = 'by the worker'}, undef, 'inc'), 'the worker applies a batch');
my $change = target(q{SELECT format('rehome_source.change_%s_%s', m.token, t.id) FROM rehome.migration m, rehome.table_map t WHERE t.target = 'item'::regclass});
ok(wait_until($pair->source, "SELECT count(*) = 0 FROM $change", undef, 'inc'), 'and prunes');
is(incremental('item'), '0 0 0 50 rows touched', 'what it touched is known though the change rows are gone');

# --- the target changes ------------------------------------------------------

target(q{SELECT rehome.set_drift_policy('m', 'record', 'item')});
as_clerk(q{UPDATE item SET price = 0 WHERE id = 200; DELETE FROM item WHERE id = 201; INSERT INTO item VALUES (40000, 'x', 0, ''); UPDATE item SET id = 40001 WHERE id = 202});
is(incremental('item'), '2 2 1 5 rows touched', 'drift is found, by the keys of old and new rows');
is(incremental('item'), '2 2 1 5 rows touched', 'and found again: differences on record are looked at each time');
is(full('item'), '2 2 1 all', 'just as a look at all rows finds it');
is(incremental('item'), '2 2 1 5 rows touched', 'which is one to go on from, since all differences are on record');
target(q{SELECT rehome.repair_drift('m', 'item'); CALL rehome.sync('m')});
is(incremental('item'), '0 0 0 5 rows touched', 'repaired');
is(target(q{SELECT count(*) FROM rehome.discrepancy WHERE resolved_at IS NULL}), '0', 'what is not there any more is closed');
is(incremental('item'), '0 0 0 0 rows touched', 'and not looked at again');

# A writer that was under way when the last verification looked.
my $clerk = $pair->target->background_psql('inc', on_error_stop => 1, extra_params => [ '-U', 'clerk' ]);
$clerk->query_safe(q{BEGIN; UPDATE item SET price = 0 WHERE id = 210});
is(incremental('item'), '0 0 0 0 rows touched', 'a write that is not committed is no difference');
$clerk->query_safe('COMMIT');
$clerk->quit;
is(incremental('item'), '0 0 1 1 rows touched', 'but it is afterwards, although its transaction had begun before');
target(q{SELECT rehome.repair_drift('m', 'item'); CALL rehome.sync('m')});
is(incremental('item'), '0 0 0 1 rows touched', 'repaired');

# A transaction that does not see what others have written since it began would
# miss it, and for good.
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $old = $pair->target->background_psql('inc', on_error_stop => 0);
	$old->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM visit");
	as_clerk(q{UPDATE item SET price = 0 WHERE id = 211});
	$old->query(q{SELECT * FROM rehome.verify('m', target => 'item', incremental => true)});
	like($old->{stderr}, qr/cannot work on slice "main" of migration "m" in a transaction of isolation level $level/, "$level: refused");
	$old->quit;
	is(incremental('item'), '0 0 1 1 rows touched', "$level: what was written meanwhile is found");
	target(q{SELECT rehome.repair_drift('m', 'item'); CALL rehome.sync('m')});
	is(incremental('item'), '0 0 0 1 rows touched', "$level: repaired");
}

# What no trigger has seen.
sub unseen
{
	my ($sql) = @_;
	return target("BEGIN; ALTER TABLE item DISABLE TRIGGER rehome_drift; $sql; ALTER TABLE item ENABLE ALWAYS TRIGGER rehome_drift; COMMIT");
}
unseen(q{UPDATE item SET price = 1 WHERE id = 300});
is(incremental('item'), '0 0 0 0 rows touched', 'is not looked at');
is(full('item'), '0 0 1 all', 'but by a look at all rows');
$pair->sql_source(q{UPDATE item SET note = 'touched' WHERE id = 300});
is(incremental('item'), '0 0 0 1 rows touched', 'the batch puts it right');

# More differences than are recorded are no ground to stand on.
unseen(q{UPDATE item SET price = 1 WHERE id BETWEEN 400 AND 409});
is(target(q{SET rehome.max_discrepancies = 5; SELECT differing FROM rehome.verify('m', target => 'item')}), 10, 'ten differ, five are recorded');
is(incremental('item'), '0 0 10 all rows: no verification of all rows is on record', 'all rows are compared until all differences are');
is(incremental('item'), '0 0 10 10 rows touched', 'then these');
$pair->sql_source(q{UPDATE item SET note = 'touched' WHERE id BETWEEN 400 AND 409});
is(incremental('item'), '0 0 0 10 rows touched', 'and they are put right');

# --- what makes it impossible ------------------------------------------------

as_clerk('TRUNCATE item');
is(incremental('item'), '20000 0 0 all rows: the target was truncated since', 'a truncated target');
target(q{SELECT rehome.repair_drift('m', 'item'); CALL rehome.sync('m')});
like(incremental('item'), qr/^0 0 0 all rows: /, 'and a target that was filled again');
$pair->sql_source(q{BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM visit; TRUNCATE visit; INSERT INTO visit SELECT * FROM kept WHERE who <> 'w "1'; COMMIT});
is(incremental('visit'), '0 0 0 all rows: all of it was read again since', 'a source that was truncated');
is(incremental('visit'), '0 0 0 0 rows touched', 'but once');
target(q{SELECT rehome.map_column('m', 'item', 'note', 'upper(note)')});
like(incremental('item'), qr/^0 0 \d+ all rows: the rules have changed since$/, 'other rules');
target(q{SELECT rehome.map_column('m', 'item', 'note', 'note')});
like(incremental('item'), qr/^0 0 0 all rows: /, '... and back');
$pair->target->append_conf('postgresql.conf', 'rehome.max_touched_keys = 20');
$pair->target->reload;
ok(wait_until($pair->target, q{SELECT current_setting('rehome.max_touched_keys') = '20'}, undef, 'inc'), 'few keys are kept');
$pair->sql_source(q{UPDATE item SET note = 'few' WHERE id BETWEEN 501 AND 515});
is(incremental('item'), '0 0 0 15 rows touched', 'fifteen are');
for my $round (1 .. 3)
{
	$pair->sql_source(qq{UPDATE item SET note = 'few $round' WHERE id BETWEEN 501 AND 515});
	target(q{CALL rehome.sync('m')});
}
is(incremental('item'), '0 0 0 15 rows touched', 'the same ones again and again are no more');
$pair->sql_source(q{UPDATE item SET note = 'many' WHERE id BETWEEN 501 AND 530});
is(incremental('item'), '0 0 0 all rows: more than 20 rows have changed since', 'thirty are too many');
$pair->target->append_conf('postgresql.conf', 'rehome.max_touched_keys = 1000000');
$pair->target->reload;
ok(wait_until($pair->target, q{SELECT current_setting('rehome.max_touched_keys') = '1000000'}, undef, 'inc'), 'many keys are kept');

for my $wrong (
	[ q{mode => 'count', incremental => true}, qr/A count says nothing about the rows that were touched/ ],
	[ q{sample => 0.1, incremental => true}, qr/sample and filter choose among all rows/ ],
	[ q{incremental => NULL}, qr/incremental is null/ ])
{
	my ($state, undef, $detail) = sqlstate_of($pair->target, "SELECT * FROM rehome.verify('m', $wrong->[0])", 'inc');
	like("$state $detail", qr/^2200?[0-9]\S* .*$wrong->[1]/s, "refused: $wrong->[0]");
}

# --- any changes at all ------------------------------------------------------

# Whatever is done to both sides, looking at what was touched finds what
# looking at all rows finds.
target(q{SELECT rehome.verify('m')});
my $differed = 0;
srand(20);
for my $round (1 .. 8)
{
	for (1 .. 1 + int rand 4)
	{
		my ($a, $b) = map { 1 + int rand 20000 } 1 .. 2;
		my $change = (
			qq{UPDATE item SET note = note || '.' WHERE id BETWEEN $a AND $a + 20},
			qq{DELETE FROM item WHERE id BETWEEN $a AND $a + 5},
			qq{INSERT INTO item SELECT i, 'r' || i, 0, '' FROM generate_series($a, $a + 30) AS i ON CONFLICT DO NOTHING},
			qq{UPDATE item SET id = id + 100000 WHERE id = $b AND NOT EXISTS (SELECT FROM item WHERE id = $b + 100000)},
			qq{UPDATE visit SET who = 'x' WHERE at = '2024-01-01'::timestamptz + $a * '1 ms'::interval})[ int rand 5 ];
		rand() < 0.6 || $change =~ /visit/ ? $pair->sql_source($change) : as_clerk($change);
	}
	target(q{SELECT rehome.repair_drift('m'); CALL rehome.sync('m')}) if rand() < 0.2;
	my $sql = q{SELECT string_agg(concat_ws(' ', target, missing, extra, differing), ', ' ORDER BY target::text) FROM rehome.verify('m', mode => 'rows'};
	my $inc = target("$sql, incremental => true)");
	# not a look at all rows that the next one would go on from
	my $all = target("BEGIN; $sql); ROLLBACK");
	is($inc, $all, "round $round: the same");
	$differed++ if $all =~ /[1-9]/;
}
cmp_ok($differed, '>', 0, "$differed of the rounds had differences");
target(q{SELECT rehome.repair_drift('m'); CALL rehome.sync('m')});
like(incremental('item'), qr/^0 0 0 \d+ rows touched/, 'in the end all is well');

# --- after the cutover, and back ---------------------------------------------

target(q{SELECT rehome.map_column('m', 'named', 'v', 'v')});
target(q{SELECT rehome.recopy('m', 'named'); CALL rehome.sync('m')});
target(q{SELECT rehome.verify('m')});
target(q{SELECT rehome.set_drift_policy('m', 'reject'); CALL rehome.cutover('m')});
is(incremental('item'), '0 0 0 0 rows touched', 'what was equal before the cutover still is');
target(q{UPDATE item SET note = 'new home' WHERE id BETWEEN 1001 AND 1020; DELETE FROM item WHERE id = 1021; INSERT INTO item VALUES (50000, 'nh', 1, 'x')});
is(incremental('item'), '0 0 0 22 rows touched', 'then the rows that the application wrote here are compared');
target(q{UPDATE item SET note = 'newer' WHERE id BETWEEN 1001 AND 1005});
my $back = target(q{SELECT 'rehome_change.change_' || id FROM rehome.table_map WHERE target = 'item'::regclass});
ok(wait_until($pair->target, "SELECT count(*) = 0 FROM $back", undef, 'inc'), 'the worker prunes what has gone back');
is(incremental('item'), '0 0 0 22 rows touched', 'and what it pruned is compared');
target(q{UPDATE item SET note = 'last' WHERE id BETWEEN 1001 AND 1003});
target(q{CALL rehome.rollback('m')});
is(incremental('item'), '0 0 0 22 rows touched', 'so it is after a rollback, when more columns count');
is(full('item', 'rows'), '0 0 0 all', 'and all rows agree');
target(q{TRUNCATE rehome.full_pass; SELECT rehome.verify('m'); CALL rehome.cutover('m'); SELECT rehome.verify('m'); CALL rehome.rollback('m')});
is(incremental('item'), '0 0 0 all rows: the last verification of all rows was made while the target had authority',
	'what was compared then may have been less than what is compared now');

# What was written after the cutover and compared since is not touched for ever.
target(q{SELECT rehome.verify('m')});
is(incremental('item'), '0 0 0 0 rows touched', 'what went back and was compared counts no more');
target(q{CALL rehome.cutover('m'); SELECT rehome.pause('m')});
target(q{CREATE TEMP TABLE kept AS TABLE visit; TRUNCATE visit; INSERT INTO visit TABLE kept; UPDATE item SET note = 'there and back' WHERE id <= 10;
	SELECT rehome.resume('m'); CALL rehome.rollback('m')});
is(incremental('visit'), '0 0 0 all rows: the target was truncated since', 'after a rollback, a TRUNCATE since the cutover');
like(incremental('item'), qr/^0 0 0 (?!0)\d+ rows touched/, '... and rows');
is(full('visit') . ', ' . full('item'), '0 0 0 all, 0 0 0 all', '... are compared');
is(incremental('visit') . ', ' . incremental('item'), '0 0 0 0 rows touched, 0 0 0 0 rows touched', '... once');

target(q{CALL rehome.cancel('m')});
is(target(q{SELECT count(*) FROM rehome.full_pass}), '0', 'nothing is left');
is(target(q{SELECT count(*) FROM pg_class WHERE relname LIKE 'touched_%'}), '0', 'nothing at all');

$pair->source->stop;
$pair->target->stop;
done_testing();
