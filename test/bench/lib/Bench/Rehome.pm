# Bench::Rehome: our contender: a migration from a database of the source into
# one of the target, up to where a measure begins, and its removal.
package Bench::Rehome;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(rehome_prepare rehome_define rehome_call rehome_migrate rehome_cancel);

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
	$bench->target->do($to, "SELECT rehome.create_migration('$migration', 'src', 'a benchmark')",
		"SELECT rehome.add_schema('$migration', 'public', 'public')");
	return;
}

# rehome_call(bench, database, 'sync', migration)
sub rehome_call
{
	my ($bench, $to, $procedure, $migration) = @_;
	$migration //= 'm';
	$bench->target->do($to, "CALL rehome.$procedure('$migration')");
	return;
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
