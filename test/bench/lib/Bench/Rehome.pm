# Bench::Rehome: our contender: a migration from a database of the source into
# one of the target, up to where a measure begins, and its removal. Each call has
# a session of its own, so that its memory is what that call takes.
package Bench::Rehome;

use strict;
use warnings;

use DBD::Pg qw(:async);
use Exporter 'import';

our @EXPORT = qw(rehome_prepare rehome_define rehome_call rehome_call_begin rehome_call_end rehome_verify rehome_migrate rehome_cancel);

# Runs the code with a new connection to a database of the target; an error of it
# begins with the SQLSTATE.
sub in_session
{
	my ($bench, $to, $code) = @_;
	my $dbh = $bench->target->connect($to);
	my $result;
	eval { $result = $code->($dbh); 1 } or die $dbh->state . ": $@";
	$dbh->disconnect;
	return $result;
}

# The extension and the way to the source, in an existing database.
sub rehome_prepare
{
	my ($bench, $from, $to) = @_;
	my $host = $bench->source->dir;
	$bench->target->do($to, 'CREATE EXTENSION pg_rehome CASCADE',
		"CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', dbname '$from')",
		q{CREATE USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (user 'postgres')});
	return;
}

# A migration of all tables of schema public.
sub rehome_define
{
	my ($bench, $to, $migration) = @_;
	$migration //= 'm';
	in_session(
		$bench, $to,
		sub {
			my ($dbh) = @_;
			$dbh->do('SELECT rehome.create_migration(?, ?, ?)', undef, $migration, 'src', 'a benchmark');
			$dbh->do('SELECT rehome.add_schema(?, ?, ?)', undef, $migration, 'public', 'public');
		});
	return;
}

# rehome_call(bench, database, 'sync', migration)
sub rehome_call
{
	my ($bench, $to, $procedure, $migration) = @_;
	$migration //= 'm';
	in_session($bench, $to, sub { $_[0]->do("CALL rehome.$procedure('$migration')") });
	return;
}

# The same, without waiting for its end: rehome_call_end waits for what
# rehome_call_begin returns.
sub rehome_call_begin
{
	my ($bench, $to, $procedure, $migration) = @_;
	$migration //= 'm';
	my $dbh = $bench->target->connect($to);
	$dbh->do("CALL rehome.$procedure('$migration')", { pg_async => PG_ASYNC });
	return $dbh;
}

sub rehome_call_end
{
	my ($dbh) = @_;
	eval { $dbh->pg_result; 1 } or die $dbh->state . ": $@";
	$dbh->disconnect;
	return;
}

# The rows of verify, at least one, whatever they say.
sub rehome_verify
{
	my ($bench, $to, $mode) = @_;
	my $rows = in_session($bench, $to,
		sub { $_[0]->selectall_arrayref(q{SELECT * FROM rehome.verify('m', mode => ?)}, { Slice => {} }, $mode // 'hash') });
	die "verify gave no row\n" if !@$rows;
	return @$rows;
}

# All of it, into a fresh database: after it, the copy is done and no worker runs.
sub rehome_migrate
{
	my ($bench, $from, $to) = @_;
	$bench->target->create_database($to);
	rehome_prepare($bench, $from, $to);
	$bench->copy_schema($from, $to);
	rehome_define($bench, $to);
	rehome_call($bench, $to, 'copy');
	return;
}

# Removes the migration; the source must be as it was.
sub rehome_cancel
{
	my ($bench, $from, $to, $migration) = @_;
	rehome_call($bench, $to, 'cancel', $migration);
	my $left = $bench->source->value($from, q{SELECT count(*) FROM pg_namespace WHERE nspname = 'rehome_source'});
	die "cancel has left something at the source\n" if $left && !defined $migration;
	return;
}

1;
