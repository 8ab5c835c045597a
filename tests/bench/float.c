/*
 * float: arithmetic in floating point, for tests/bench/work: bodies that attract each other
 * (scalars), a product of matrices (vectors), and a sum of what the C library computes. Prints what
 * came of it, which is the same on every processor.
 */
#include <math.h>
#include <stdio.h>

#define BODIES 8
#define STEPS  300000
#define SIZE   320
#define TERMS  1500000

struct body {
	double at[3], speed[3], mass;
};

static struct body bodies[BODIES];

static void place_bodies(void)
{
	for (int i = 0; i < BODIES; i++)
		bodies[i] = (struct body){
			{ i * 1.5, (i * 5 % 8) * 0.7, (i * 3 % 8) * 0.9 },
			{ (i & 1) * 0.01, (i & 2) * -0.01, (i & 4) * 0.005 },
			0.1 + i * 0.01,
		};
}

static void attract(struct body *a, struct body *b, double dt)
{
	double d[3], square = 0.01, pull;

	for (int k = 0; k < 3; k++) {
		d[k] = a->at[k] - b->at[k];
		square += d[k] * d[k];
	}
	pull = dt / (square * sqrt(square));
	for (int k = 0; k < 3; k++) {
		a->speed[k] -= d[k] * b->mass * pull;
		b->speed[k] += d[k] * a->mass * pull;
	}
}

static double fly(void)
{
	double energy = 0;

	place_bodies();
	for (int step = 0; step < STEPS; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++)
				attract(&bodies[i], &bodies[j], 0.001);
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				bodies[i].at[k] += 0.001 * bodies[i].speed[k];
	}
	for (int i = 0; i < BODIES; i++)
		for (int k = 0; k < 3; k++)
			energy += bodies[i].mass * bodies[i].speed[k] * bodies[i].speed[k] / 2;
	return energy;
}

static double multiply(void)
{
	static float a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
	double trace = 0;

	for (int i = 0; i < SIZE; i++)
		for (int j = 0; j < SIZE; j++) {
			a[i][j] = (float)(i - j) / SIZE;
			b[i][j] = (float)(i * j % 17) / 16;
		}
	for (int i = 0; i < SIZE; i++)
		for (int k = 0; k < SIZE; k++)
			for (int j = 0; j < SIZE; j++)
				c[i][j] += a[i][k] * b[k][j];
	for (int i = 0; i < SIZE; i++)
		trace += c[i][i];
	return trace;
}

static double add_up(void)
{
	double sum = 0;

	for (int i = 1; i <= TERMS; i++)
		sum += sin(i) * exp(-i / 1e5) + log(i) / i;
	return sum;
}

int main(void)
{
	printf("%.12g %.12g %.12g\n", fly(), multiply(), add_up());
}
