# Capture and fence hold whatever becomes of the tables they are on: a table that
# is written to through another one since, triggers that were switched off and
# on again, keys that are null; and a position that the log does not reach back
# to is noticed.
use strict;
use warnings;

use Test::More;

use RehomeTest;

my $pair = new_pair();
my ($source, $target) = ($pair->source, $pair->target);
my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, v text);
	CREATE TABLE app.child (id int PRIMARY KEY, v text);
	CREATE TABLE app.loaded (id int PRIMARY KEY, v text);
};
$pair->sql_source($tables . q{
	CREATE TABLE app.coded (code text UNIQUE, v text);
	INSERT INTO app.item SELECT i, 'item' FROM generate_series(1, 10) i;
	INSERT INTO app.child SELECT i, 'child' FROM generate_series(1, 10) i;
	INSERT INTO app.loaded SELECT i, 'loaded' FROM generate_series(1, 10) i;
	INSERT INTO app.coded SELECT 'c' || i, 'coded' FROM generate_series(1, 10) i});
$pair->sql_target($tables . 'CREATE TABLE app.coded (code text PRIMARY KEY, v text)');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of what capture outlives');
	SELECT rehome.add_schema('m', 'app', 'app');
	CALL rehome.copy('m')});

sub paused { return $pair->sql_target(q{SELECT string_agg(format('%s: %s', t.target, t.reason), '; ') FROM rehome.table_map t WHERE t.paused}) }

# One batch, which may leave out tables that are paused by it.
sub sync { return (sqlstate_of($target, q{CALL rehome.sync('m')}))[0] }

sub in_sync
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync(), '00000', "$name: sync succeeds");
	same_content($pair, [qw(app.item app.child app.loaded app.coded)], "$name: nothing is lost");
	return;
}

my $parts = 'is a part of another one, has parts itself, or is fed by a subscription since: its triggers for each statement do not see all writes';
my %given = (
	'app.item' => q{
		CREATE TABLE app.items (LIKE app.item INCLUDING ALL) PARTITION BY RANGE (id);
		ALTER TABLE app.items ATTACH PARTITION app.item FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
		INSERT INTO app.items VALUES (100, 'by the parent')},
	'app.child' => q{
		CREATE TABLE app.parent (id int NOT NULL, v text);
		ALTER TABLE app.child INHERIT app.parent;
		UPDATE app.parent SET v = 'by the parent' WHERE id = 5});
# Releases of PostgreSQL that are a while old refuse that for triggers per statement, too.
for my $instead ([ 'app.item', 'app.items' ], [ 'app.child', 'app.parent' ])
{
	my ($table, $parent) = @$instead;
	next if (sqlstate_of($source, "BEGIN; $given{$table}; ROLLBACK"))[0] eq '00000';
	delete $given{$table};
	$pair->sql_source("CREATE VIEW $parent AS SELECT * FROM $table");
}
for my $table (sort keys %given)
{
	$pair->sql_source("$given{$table}; UPDATE app.loaded SET v = 'meanwhile, $table' WHERE id = 1");
	is(sync(), 'RH009', "$table has a parent: sync says that it has left it out");
	is(paused(), "$table: at the source the table $parts", "$table has a parent: it is paused");
	is($pair->sql_target('SELECT v FROM app.loaded WHERE id = 1'), "meanwhile, $table", "$table has a parent: the others go on");
	$pair->sql_target("SELECT rehome.resume_table('m', '$table')");
	in_sync("$table has a parent");
}
$pair->sql_source(q{
	UPDATE app.items SET v = 'again' WHERE id = 100; DELETE FROM app.items WHERE id = 3;
	UPDATE app.parent SET v = 'again' WHERE id = 6; DELETE FROM app.parent WHERE id = 4});
in_sync('writes by the parent');

# Off, and on again, but not ALWAYS.
my $not_always = q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%' AND tgenabled <> 'A'};
$pair->sql_source(q{
	ALTER TABLE app.loaded DISABLE TRIGGER ALL; INSERT INTO app.loaded VALUES (100, 'loaded in bulk'); ALTER TABLE app.loaded ENABLE TRIGGER ALL});
isnt($pair->sql_source($not_always), '0', 'switched off and on: triggers are not ALWAYS any more');
in_sync('switched off and on');
is($pair->sql_source($not_always), '0', 'switched off and on: they are again');
$pair->sql_source(q{SET session_replication_role = replica; INSERT INTO app.loaded VALUES (101, 'in replica role')});
in_sync('in replica role');

# So with the guard.  What was written meanwhile is found by a verification, and by nothing else.
sub noted { return $pair->sql_target(q{SELECT string_agg(concat_ws(' ', kind, object, policy, resolution), '; ' ORDER BY id) FROM rehome.drift WHERE side = 'target' AND kind <> 'refused'}) }
sub behind { my ($sql) = @_; return $pair->sql_target("BEGIN; ALTER TABLE app.loaded DISABLE TRIGGER ALL; $sql; ALTER TABLE app.loaded ENABLE TRIGGER ALL; COMMIT") }
sub verified { my ($how) = @_; return $pair->sql_target("SELECT concat_ws(' ', missing, extra, differing, note) FROM rehome.verify('m', target => 'app.loaded'$how)") }
my $tamper = q{UPDATE app.loaded SET v = 'sneaked in' WHERE id = 2; DELETE FROM app.loaded WHERE id = 3; INSERT INTO app.loaded VALUES (4711, 'sneaked in')};
$pair->sql_target(q{DELETE FROM rehome.drift; SELECT rehome.verify('m')});
behind($tamper);
is($pair->sql_target(q{SELECT concat_ws(' ', missing, extra, differing, (SELECT count(*) FROM app.loaded)) FROM rehome.verify('m', target => 'app.loaded')}) =~ s/ \d+$//r,
	'1 1 1', 'the guard was off for a while: a verification finds what was written, also by a query of the table');
is(noted(), '', 'the guard was off for a while: what is in use is left for the next look');
is(verified(''), '1 1 1', 'the guard was off for a while: a verification finds what was written');
is(paused(), '', 'the guard was off for a while: the table goes on');
is(noted(), 'guard off app.loaded record', 'the guard was off for a while: it is on record');
is($pair->sql_target($not_always =~ s/rehome%/rehome_guard%/r), '0', 'the guard was off for a while: it is ALWAYS again');
is((sqlstate_of($target, q{SET session_replication_role = replica; DELETE FROM app.loaded}))[0], '25006', 'the guard was off for a while: it sees replica role');
my @gate = sqlstate_of($target, q{CALL rehome.cutover('m')});
like("$gate[0] $gate[2]", qr/^RH003 The guard of app.loaded was off for a while: what was written then is not known\.\n/, 'the guard was off for a while: there is no cutover');
is($pair->sql_target(q{SELECT rehome.repair_drift('m')}), '1', 'the guard was off for a while: the table is to be read as a whole');
in_sync('the guard was off for a while');
is(noted(), 'guard off app.loaded record repaired' =~ s/record/repair/r, 'the guard was off for a while: it is repaired');
is(verified(''), '0 0 0', 'the guard was off for a while: nothing is left of it');
$pair->sql_target(q{DELETE FROM rehome.drift});
behind('SELECT 1');
is(verified(', incremental => true'), '0 0 0 all rows: the guard was off since', 'the guard was off, and nobody wrote: nothing is taken for known');
is(noted(), 'guard off app.loaded record verified', 'the guard was off, and nobody wrote: settled by that');
behind($tamper);
is(sync(), '00000', 'the guard was off: a batch goes on');
$pair->sql_target(q{SELECT rehome.accept_drift('m')});
is(noted() =~ s/.*; //r, 'guard off app.loaded record accepted', 'the guard was off: accepted');
$pair->sql_target(q{SELECT rehome.recopy('m', 'app.loaded')});
in_sync('the guard was off, read as a whole');
$pair->sql_target(q{ALTER TABLE app.loaded DISABLE TRIGGER ALL});
is(sync(), 'RH009', 'the guard is off: sync says that it has left the table out');
is(paused(), 'app.loaded: at the target the guard is missing or disabled, or does not see what is written by way of a parent, to tables that inherit from it, or by a subscription', 'the guard is off: the table is paused');
$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.loaded')});
in_sync('the guard is put back');
$pair->sql_target('CREATE TABLE app.every (LIKE app.loaded INCLUDING ALL) PARTITION BY RANGE (id); ALTER TABLE app.every ATTACH PARTITION app.loaded FOR VALUES FROM (MINVALUE) TO (MAXVALUE)');
is(sync(), 'RH009', 'the target has a parent: sync says that it has left the table out');
like(paused(), qr/by way of a parent, to tables that inherit from it, or by a subscription\z/, 'the target has a parent: the table is paused');
$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.loaded')});
is((sqlstate_of($target, $_))[0], '25006', "the target has a parent: refused: $_") for 'UPDATE app.every SET v = NULL', 'UPDATE app.loaded SET v = NULL';
in_sync('the target has a parent');

# A row without a key cannot be moved: that is no secret.
$pair->sql_source(q{INSERT INTO app.coded VALUES (NULL, 'without a key')});
is(sync(), '23502', 'a null key: sync fails');
$pair->sql_source(q{DELETE FROM app.coded WHERE code IS NULL});
in_sync('a null key that is gone');
$pair->sql_source(q{UPDATE app.coded SET code = NULL WHERE code = 'c5'});
is(sync(), '23502', 'a key that becomes null: sync fails');
$pair->sql_source(q{UPDATE app.coded SET code = 'c5' WHERE code IS NULL});
in_sync('a key that is there again');

# The target goes back to a position in which a transaction was under way whose
# changes have been pruned since, by somebody who has seen no later one.
{
	my $writer = $source->background_psql('postgres');
	$writer->query_safe(q{BEGIN; UPDATE app.loaded SET v = 'slow' WHERE id = 2});
	$pair->sql_source(q{UPDATE app.loaded SET v = 'quick' WHERE id = 3});
	is(sync(), '00000', 'a slow writer: sync succeeds');
	my $position = $pair->sql_target('SELECT position FROM rehome.status');
	like($position, qr/:\d+\z/, 'a slow writer: the position says that it is under way');
	$writer->query_safe('COMMIT');
	$writer->quit;
	in_sync('a slow writer');
	my $now = $pair->sql_target('SELECT position FROM rehome.status');
	my $pruned = $pair->sql_source('SELECT pruned FROM rehome_source.slice');
	my $xmax = (split /:/, $position)[1];
	$pair->sql_target("UPDATE rehome.slice SET position = '$position'");
	$pair->sql_source("UPDATE rehome_source.slice SET pruned = '$xmax:$xmax:'");
	my ($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.sync('m')});
	is("$sqlstate $message", 'RH006 the change log of slice "main" no longer reaches back to its position', 'an earlier position: sync refuses');
	$pair->sql_source("UPDATE rehome_source.slice SET pruned = '$pruned'");
	$pair->sql_target("UPDATE rehome.slice SET position = '$now'");
	in_sync('the position it had');
}

# After the cutover, at the old home.
$pair->sql_target(q{CALL rehome.cutover('m')});
for my $write (q{INSERT INTO app.items VALUES (300, 'too late')}, q{UPDATE app.parent SET v = 'too late'}, q{INSERT INTO app.loaded VALUES (300, 'too late')})
{
	is((sqlstate_of($source, $write))[0], '25006', "the old home refuses: $write");
}
$pair->sql_source('ALTER TABLE app.loaded DISABLE TRIGGER ALL; ALTER TABLE app.loaded ENABLE TRIGGER ALL');
$pair->sql_target(q{UPDATE app.loaded SET v = 'new home' WHERE id = 4});
in_sync('the way back');
is($pair->sql_source($not_always), '0', 'the way back: the fence is ALWAYS again');
is((sqlstate_of($source, q{SET session_replication_role = replica; INSERT INTO app.loaded VALUES (300, 'too late')}))[0], '25006', 'the old home refuses it in replica role, too');
$pair->sql_target(q{CALL rehome.rollback('m')});
$pair->sql_source(q{INSERT INTO app.items VALUES (300, 'in time')});
in_sync('rolled back');

# Tables that inherit from one that is moved: no trigger of it fires for their rows.
for my $side (qw(source target))
{
	my $sql = "sql_$side";
	$pair->$sql('CREATE TABLE app.grandchild () INHERITS (app.coded)');
	is(sync(), 'RH009', "$side: a table has children since: sync says that it has left it out");
	like(paused(), qr/inherit from/, "$side: a table has children since: it is paused");
	my ($sqlstate, $message) = sqlstate_of($target, q{SELECT rehome.resume_table('m', 'app.coded')});
	is("$sqlstate $message", "42809 table app.coded at the $side has inheritance children", "$side: a table has children since: it does not go on");
	$pair->$sql('DROP TABLE app.grandchild');
	$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.coded')});
	in_sync("$side: a table has no children any more");
}

done_testing();
