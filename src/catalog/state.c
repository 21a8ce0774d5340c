/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The states of a slice and the transitions between them.
 *
 * One table is the whole truth.  It is shown as rehome.state_transition and
 * dumped by a regression test, so that a changed edge is a reviewed diff.
 *
 * planned, copying, syncing, cut_over, completed and cancelled are durable.
 * cutting_over and rolling_back are momentary: they are what is left when
 * one side committed and the other has not (yet).  Authority follows from
 * the state; in the momentary ones it is nobody's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/state.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

static const char *const state_names[] = {
	[REHOME_PLANNED] = "planned",
	[REHOME_COPYING] = "copying",
	[REHOME_SYNCING] = "syncing",
	[REHOME_CUTTING_OVER] = "cutting_over",
	[REHOME_CUT_OVER] = "cut_over",
	[REHOME_ROLLING_BACK] = "rolling_back",
	[REHOME_COMPLETED] = "completed",
	[REHOME_CANCELLED] = "cancelled",
};

static const char *const authority_names[] = {
	[REHOME_SOURCE] = "source",
	[REHOME_TARGET] = "target",
	[REHOME_NONE] = "none",
};

static const RehomeAuthority state_authority[] = {
	[REHOME_PLANNED] = REHOME_SOURCE,
	[REHOME_COPYING] = REHOME_SOURCE,
	[REHOME_SYNCING] = REHOME_SOURCE,
	[REHOME_CUTTING_OVER] = REHOME_NONE,
	[REHOME_CUT_OVER] = REHOME_TARGET,
	[REHOME_ROLLING_BACK] = REHOME_NONE,
	[REHOME_COMPLETED] = REHOME_TARGET,
	[REHOME_CANCELLED] = REHOME_SOURCE,
};

typedef struct Transition
{
	RehomeState from;
	RehomeState to;
	const char *call;			/* what moves a slice along this edge */
	enum
	{
		ANY_SOURCE, LIVE_SOURCE, ONCE_SOURCE
	}			source;			/* which kind of source it is for */
} Transition;

static const Transition transitions[] = {
	{REHOME_PLANNED, REHOME_COPYING, "start", LIVE_SOURCE},
	{REHOME_PLANNED, REHOME_COPYING, "copy", ANY_SOURCE},
	{REHOME_PLANNED, REHOME_CANCELLED, "cancel", ANY_SOURCE},
	{REHOME_COPYING, REHOME_SYNCING, "copy", ANY_SOURCE},
	{REHOME_COPYING, REHOME_CANCELLED, "cancel", ANY_SOURCE},
	{REHOME_SYNCING, REHOME_CUTTING_OVER, "recover", LIVE_SOURCE},
	{REHOME_SYNCING, REHOME_CUT_OVER, "cutover", LIVE_SOURCE},
	{REHOME_SYNCING, REHOME_COMPLETED, "complete", ONCE_SOURCE},
	{REHOME_SYNCING, REHOME_CANCELLED, "cancel", ANY_SOURCE},
	{REHOME_CUTTING_OVER, REHOME_SYNCING, "recover", LIVE_SOURCE},
	{REHOME_CUT_OVER, REHOME_ROLLING_BACK, "rollback", LIVE_SOURCE},
	{REHOME_CUT_OVER, REHOME_COMPLETED, "complete", LIVE_SOURCE},
	{REHOME_ROLLING_BACK, REHOME_SYNCING, "recover", LIVE_SOURCE},
};

const char *
rehome_state_name(RehomeState state)
{
	return state_names[state];
}

RehomeState
rehome_state_parse(const char *name)
{
	for (int i = 0; i < lengthof(state_names); i++)
		if (strcmp(state_names[i], name) == 0)
			return (RehomeState) i;
	elog(ERROR, "unknown slice state \"%s\"", name);
}

const char *
rehome_authority_name(RehomeAuthority authority)
{
	return authority_names[authority];
}

RehomeAuthority
rehome_authority_parse(const char *name)
{
	for (int i = 0; i < lengthof(authority_names); i++)
		if (strcmp(authority_names[i], name) == 0)
			return (RehomeAuthority) i;
	elog(ERROR, "unknown authority \"%s\"", name);
}

/*
 * rehome_state_may tells whether there is an edge between two states.
 */
bool
rehome_state_may(RehomeState from, RehomeState to)
{
	for (int i = 0; i < lengthof(transitions); i++)
		if (transitions[i].from == from && transitions[i].to == to)
			return true;
	return false;
}

/*
 * rehome_state_authority returns who has authority in a state.
 */
RehomeAuthority
rehome_state_authority(RehomeState state)
{
	return state_authority[state];
}

/*
 * rehome_state_calls lists the calls that are legal in a state, for hints.
 */
char *
rehome_state_calls(RehomeState from, bool live)
{
	StringInfoData buf;
	const char *last = "";

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(transitions); i++)
	{
		const Transition *t = &transitions[i];

		if (t->from == from && strcmp(t->call, last) != 0 &&
			t->source != (live ? ONCE_SOURCE : LIVE_SOURCE) &&
			!(from == REHOME_SYNCING && strcmp(t->call, "recover") == 0))
		{
			appendStringInfo(&buf, "%srehome.%s()", buf.len ? ", " : "",
							 transitions[i].call);
			last = transitions[i].call;
		}
	}
	if (from == REHOME_COPYING && live)
		appendStringInfoString(&buf, ", rehome.start()");
	if (from == REHOME_SYNCING || from == REHOME_CUT_OVER)
		appendStringInfoString(&buf, live ? ", rehome.sync(), rehome.verify()" : ", rehome.verify()");
	if (from == REHOME_PLANNED || from == REHOME_COMPLETED || from == REHOME_CANCELLED)
		appendStringInfo(&buf, "%srehome.drop_migration()", buf.len ? ", " : "");
	return buf.data;
}

PG_FUNCTION_INFO_V1(rehome_state_transitions);

/*
 * rehome_state_transitions returns the table, a row each edge.
 */
Datum
rehome_state_transitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(transitions); i++)
	{
		const Transition *t = &transitions[i];
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = CStringGetTextDatum(state_names[t->from]);
		values[1] = CStringGetTextDatum(t->call);
		values[2] = CStringGetTextDatum(state_names[t->to]);
		values[3] = CStringGetTextDatum(authority_names[state_authority[t->from]]);
		values[4] = CStringGetTextDatum(authority_names[state_authority[t->to]]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
