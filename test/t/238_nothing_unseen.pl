# What was not looked at does not count as good: tables that were paused while
# their values changed, differences that somebody has called resolved, queries
# that never ended; and what is checked in one slice is no matter of another.
use strict;
use warnings;

use Test::More;

use RehomeTest;

my $pair = new_pair();
my ($source, $target) = ($pair->source, $pair->target);
my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, price numeric(12,2));
	CREATE TABLE app.other (id int PRIMARY KEY, v int);
};
$pair->sql_source($tables . q{
	INSERT INTO app.item SELECT i, i FROM generate_series(1, 100) i;
	INSERT INTO app.other SELECT i, i FROM generate_series(1, 100) i});
$pair->sql_target($tables);
$pair->import_foreign_schema('app', 'app_source');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of what was not seen');
	SELECT rehome.add_slice('m', 'second');
	SELECT rehome.add_table('m', 'app_source.item', 'app.item');
	SELECT rehome.add_table('m', 'app_source.other', 'app.other', slice => 'second');
	CALL rehome.copy('m')});

sub verified { my (%how) = @_; return $pair->sql_target("SELECT concat_ws(' ', missing, extra, differing) FROM rehome.verify('m', 'main'" . join('', map { ", $_ => $how{$_}" } sort keys %how) . ')') }
sub behind { my ($sql) = @_; return $pair->sql_target("BEGIN; ALTER TABLE app.item DISABLE TRIGGER rehome_guard; $sql; ALTER TABLE app.item ENABLE ALWAYS TRIGGER rehome_guard; COMMIT") }
sub last_event { return $pair->sql_target(q{SELECT kind FROM rehome.event WHERE slice = 'main' ORDER BY id DESC LIMIT 1}) }
sub verdict { my ($metric, $slice) = @_; return $pair->sql_target("SELECT coalesce(verdict, 'none') FROM rehome.scorecard('m', '$slice') WHERE metric = '$metric'") }

# Values that change while nobody looks at a table, since it is paused by hand.
is(verified(), '0 0 0', 'all is equal');
is(last_event(), 'verified', 'a verification');
$pair->sql_target(q{SELECT rehome.pause_table('m', 'app.item')});
$pair->sql_target(q{SELECT FROM rehome.verify('m', 'main')});
is(last_event(), 'verified_part', 'a table that is paused: what leaves it out is no verification of all');
$pair->sql_source('ALTER TABLE app.item ALTER price TYPE numeric(12,4) USING price + 0.0001');
$pair->sql_target('ALTER TABLE app.item ALTER price TYPE numeric(12,4); ALTER FOREIGN TABLE app_source.item ALTER price TYPE numeric(12,4)');
$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.item'); CALL rehome.sync('m')});
same_content($pair, ['app.item'], 'retyped while it was paused: its values are those of the source');
is(verified(incremental => 'true'), '0 0 0', 'retyped while it was paused: and an incremental verification is right to say so');
$pair->sql_target(q{SELECT rehome.pause_table('m', 'app.item'); ALTER TABLE app.item DISABLE TRIGGER rehome_guard; UPDATE app.item SET price = 0 WHERE id = 5});
$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.item'); CALL rehome.sync('m')});
same_content($pair, ['app.item'], 'written past the guard while it was paused: its values are those of the source');

# To call something resolved makes nothing good.
is(verified(), '0 0 0', 'all is equal again');
behind('DELETE FROM app.item WHERE id = 3');
is(verified(), '1 0 0', 'a row is missing');
my $open = q{SELECT count(*) FROM rehome.discrepancy WHERE resolved_at IS NULL};
is($pair->sql_target(q{SELECT rehome.resolve('m', array_agg(id), 'surely gone') FROM rehome.discrepancy WHERE resolved_at IS NULL}), '1', 'it is called resolved');
is($pair->sql_target($open), '0', 'nothing is open');
is(verified(incremental => 'true'), '1 0 0', 'an incremental verification looks, and finds it');
is($pair->sql_target($open), '1', 'it is open again');
behind('INSERT INTO app.item VALUES (3, 3.0001)');
is(verified(incremental => 'true'), '0 0 0', 'and gone when it is made good');

# More differs than is recorded: that is not forgotten by looking at what is.
behind('UPDATE app.item SET price = 0 WHERE id <= 50');
is($pair->sql_target(q{SET rehome.max_discrepancies = 10; SELECT differing FROM rehome.verify('m', 'main', sample => 0.9)}) > 10, 1, 'a sample finds more than is recorded');
behind('UPDATE app.item SET price = id + 0.0001 WHERE id IN (SELECT (key ->> \'id\')::int FROM rehome.discrepancy WHERE resolved_at IS NULL AND kind = \'differing\')');
is((split / /, verified(incremental => 'true'))[2], 40, 'an incremental verification looks at all rows then');
behind('UPDATE app.item SET price = id + 0.0001 WHERE id <= 50');
is(verified(), '0 0 0', 'made good');

# A rule that is revoked while a verification applies it covers nothing.
behind('UPDATE app.item SET price = 0 WHERE id = 7');
my $rule = $pair->sql_target(q{SELECT rehome.accept('m', 'app.item', 'to be revoked')});
my $session = $target->background_psql('postgres');
$session->query_safe(q{BEGIN; SELECT FROM rehome.verify('m', 'main')});
$pair->sql_target("SELECT rehome.revoke_acceptance('m', $rule)");
$session->query_safe('COMMIT');
$session->quit;
is($pair->sql_target(q{SELECT discrepancies FROM rehome.status WHERE slice = 'main'}), '1', 'the difference is open');
my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m', 'main')});
like("$sqlstate $detail", qr/\ARH\d+ 1 open discrepancies in app\.item/, 'and stands in the way of a cutover');
behind('UPDATE app.item SET price = 7.0001 WHERE id = 7');
is(verified(), '0 0 0', 'made good once more');

# A query that does not come to its end may be the slowest of all.
$pair->sql_target(q{
	SELECT rehome.add_query('m', 'endless', 'SELECT count(*) FROM app.item', 'SELECT 1 / (count(*) - count(*)) FROM app.item');
	SELECT rehome.set_criterion('m', 'queries_slower', '=', 0);
	SELECT FROM rehome.run_queries('m')});
is(verdict('queries_slower', 'main'), 'failed', 'a query that fails counts as slower');
$pair->sql_target(q{SELECT rehome.drop_criterion('m', 'queries_slower'); SELECT rehome.drop_query('m', 'endless')});

# What is checked in one slice.
$pair->sql_target(q{
	SELECT rehome.add_check('m', 'totals', 'business', 'SELECT sum(price) AS s FROM app.item', 'SELECT sum(price) AS s FROM app.item');
	SELECT rehome.set_criterion('m', 'check.totals', '=', 1)});
is(verdict('check.totals', 'main'), 'unmeasured', 'a check of a slice that has not been run');
is(verdict('check.totals', 'second'), '', 'is no matter of another slice');
like((sqlstate_of($target, q{CALL rehome.cutover('m', 'main')}))[2], qr/\ACriterion check\.totals = 1: unmeasured/, 'its own slice is refused');
$pair->sql_target(q{CALL rehome.cutover('m', 'second')});
is($pair->sql_target(q{SELECT string_agg(slice || ' ' || state, ', ' ORDER BY slice) FROM rehome.status}), 'main syncing, second cut_over', 'the other slice is cut over without it');

done_testing();
